"""Plans as TOML: read, checked with the place of a fault, changed by key, and written."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter, ValidationError

from silhouette_shared.config.plan import Plan, plan_document
from silhouette_shared.errors import UsageError

_PLAN = TypeAdapter(Plan)


def parse_plan(document: Mapping[str, object], *, source: str, text: str = "") -> Plan:
    """Build a plan from parsed TOML or JSON.

    Args:
        document: Tables and values as a TOML reader gives them.
        source: Where the document came from, named in an error.
        text: The TOML it was parsed from, to name the line of the first fault.

    Raises:
        UsageError: If a key is unknown, missing, of another type or out of range; every table at fault is named.
    """
    try:
        # As JSON, because strict validation of Python values would refuse a table for a dataclass and a list for a
        # tuple. JSON has no times: TOML's become an object, which no key accepts.
        return _PLAN.validate_json(json.dumps(document, default=lambda value: {"unknown": repr(value)}))
    except ValidationError as error:
        faults = [_fault(dict(item)) for item in error.errors(include_url=False)]
        line = _line_of(faults[0].partition(":")[0], text)
        place = source if line is None else f"{source}:{line}"
        raise UsageError(f"{place}: not a plan: {'; '.join(faults)}") from None


def _line_of(key: str, text: str) -> int | None:
    """The line, from 1, where a dotted key is set or its table begins; None if neither is there."""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = header[1]
            found = table
        elif setting := re.match(r"""\s*["']?([\w.-]+?)["']?\s*=""", line):
            found = f"{table}.{setting[1]}" if table else setting[1]
        else:
            continue
        if found == key:
            return number
    parent = key.rpartition(".")[0]  # a list's entry is on the list's line, a missing key in its table
    return _line_of(parent, text) if parent else None


def _fault(item: Mapping[str, object]) -> str:
    where = ".".join(str(part) for part in cast(tuple[object, ...], item["loc"]))
    kind, message = item["type"], str(item["msg"]).removeprefix("Value error, ")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where}: unknown key; remove it or correct its spelling"
    if kind in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{where}: expected a value, got none; add it"
    if kind == "value_error":
        return message
    return f"{where}: {message[0].lower()}{message[1:]}, got {item.get('input')!r}"


def read_plan(path: Path) -> Plan:
    """Read a plan from a TOML file.

    Raises:
        UsageError: If the file is missing, is no TOML or is no plan.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        raise UsageError(f"{path}: expected a plan file, found none; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        line = re.search(r"\bline (\d+)", str(error))
        place = f"{path}:{line[1]}" if line else str(path)
        raise UsageError(f"{place}: expected TOML, got a file that does not parse: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_plan(document, source=str(path), text=text)


def with_changes(plan: Plan, changes: Mapping[str, object]) -> Plan:
    """The plan with some values replaced, checked again as a whole.

    Args:
        plan: Stays as it is.
        changes: New values by key, a key of a table written as `table.key`.

    Raises:
        UsageError: If a key is unknown or a value out of range.

    >>> with_changes(Plan(name="tiny"), {"privacy.epsilon": 2.0}).privacy.epsilon
    2.0
    """
    document = plan_document(plan)
    for key, value in changes.items():
        table, _, name = key.rpartition(".")
        target = document.setdefault(table, {}) if table else document
        if not isinstance(target, dict):
            raise UsageError(f"settings: {key}: {table} is not a table; remove it or correct its spelling")
        target[name] = value
    return parse_plan(document, source="settings")


def write_toml(plan: Plan) -> str:
    """The plan as TOML, every default written out; reading it back gives an equal plan.

    >>> import tomllib
    >>> plan = Plan(name="tiny", note='says "hello"')
    >>> parse_plan(tomllib.loads(write_toml(plan)), source="here") == plan
    True
    """
    document = plan_document(plan)
    lines = [f"{key} = {_toml(value)}" for key, value in document.items() if not _table(value)]
    for key, value in document.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]"]
            lines += [f"{name} = {_toml(entry)}" for name, entry in value.items()]
    return "\n".join(lines) + "\n"


def _table(value: object) -> bool:
    return isinstance(value, dict)


def _toml(value: object) -> str:
    # A JSON number, boolean, string or list of them is also TOML, but for two things: TOML knows no escape by
    # surrogates, so characters stand as they are, and it wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


_MEANINGS = {
    "seed": "of everything that may repeat: start of the model, shuffling, simulation",
    "note": "what the plan is for; shown in the report, not part of the digest",
    "data": "Which public data set a simulation reads.",
    "data.behaviours": "the only events that are read; [] reads all",
    "data.history_length": "latest events of a person that the encoder reads",
    "partition": "How a simulation deals people to partners; a deployment does not read it.",
    "partition.scheme": "random, dirichlet, sizes or attribute",
    "partition.concentration": "of dirichlet: smaller is more uneven",
    "partition.ratios": "of sizes, or of dirichlet: relative sizes, one a partner",
    "partition.attribute": "of attribute: the declared attribute that decides",
    "model": "Shape of the profile encoder.",
    "model.feed_forward": "inner width of a block's feed-forward layer, in widths",
    "model.lags": "events before that every event sees directly",
    "model.content_width": "columns of the public content vectors",
    "model.dimensions": "also browsing, purchases, feedback and spending, where there are such events",
    "model.text_width": "columns of the vectors of what people write; 0 reads no texts",
    "model.behaviour_head": "also say what kind of event comes next",
    "training": "Training without privacy, and the objective of both trainings.",
    "training.final_learning_rate": "fraction reached in the last round, along a cosine",
    "training.server_optimiser": "average, momentum or adam",
    "training.update_limit": "largest magnitude of one coordinate of an answer",
    "training.attribute_weight": "of the attribute losses, beside next item",
    "training.attribute_masking": "chance that a declared attribute is hidden and has to be guessed",
    "training.crop": "chance that a person's window is cut to a part in training; in both trainings",
    "training.mask": "chance of each event to be left out in training",
    "training.reorder": "chance that a short stretch is put in another order in training",
    "privacy": "Training with privacy. Noise is calibrated to epsilon; `silhouette plan price` shows it.",
    "privacy.mode": "local: every partner adds all its noise; none: a simulation only",
    "privacy.epsilon": "of the whole run, for one person's whole record at a partner",
    "privacy.delta": "less than one over the people of a partner",
    "privacy.clip_norm": "largest influence of one person on a sum",
    "privacy.sampling_rate": "probability of a person to take part in a step",
    "privacy.local_steps": "steps a round; with one the sum over partners is claimed too",
    "privacy.grid_bits": "sums are whole numbers of clip_norm x 2^-grid_bits",
    "analytics": "What else is released of the people, through secure aggregation and from the same budget.",
    "analytics.share": "of the budget for all figures together",
    "analytics.figures": "histograms, and quantiles read from those in bins",
    "analytics.evaluation_share": "of hits and NDCG of the final model; each newest event is then held out",
    "replies": "When the coordinator goes on without a partner and when it stops.",
    "replies.minimum": "fewer valid answers in a round end the run, resumably",
    "evaluation": "How quality is measured in a simulation.",
    "evaluation.target": "test, or validation for choosing settings",
    "evaluation.split": "last event, random share of each person's, time (one moment for all), or publisher",
    "evaluation.held_out_share": "of each person's events with random, of all events with time",
    "promotion": "When a model may take the place of the promoted one; not part of the digest.",
    "promotion.margin": "how much worse it may be, in the units of the evaluation's metric",
    "promotion.confidence": "one-sided, that it is no worse than that; the evaluation's noise is in view",
    "evaluation.rows": "of the comparison; leave out what need not be trained",
}


def commented_toml(plan: Plan) -> str:
    """`write_toml` with what the tables and the less obvious settings mean."""
    lines, table = [], ""
    for line in write_toml(plan).splitlines():
        key = line.partition(" = ")[0]
        if line.startswith("["):
            table = line.strip("[]")
            lines += [f"# {_MEANINGS[table]}"] if table in _MEANINGS else []
            lines.append(line)
        else:
            meaning = _MEANINGS.get(f"{table}.{key}" if table else key)
            lines.append(f"{line}  # {meaning}" if meaning else line)
    return "\n".join(lines) + "\n"
