"""The report: one HTML file that opens without a network and without a script.

The page is written whole or not at all: to a temporary file beside it, then renamed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from silhouette_shared.errors import UsageError
from silhouette_shared.figures import (
    Bar,
    Line,
    Reference,
    bar_chart,
    line_chart,
    weight_bars,
)
from silhouette_shared.files import write_atomically
from silhouette_simulations.report.findings import findings, score, setting
from silhouette_simulations.report.reading import AttributeRow, Person, Run, read_people, read_run
from silhouette_simulations.report.secure import secure_summary

REPORT = "report.html"
WIDE, NARROW = 864, 340
"""Widths in pixels for which every chart is drawn; the style sheet shows the one that fits."""

_CURVES = ("federated", "federated_private", "pooled", "local_only")
_LONG = 12  # more partners than this fold away


@dataclass(frozen=True)
class Picture:
    """The same chart for a wide and for a narrow screen."""

    wide: Markup
    narrow: Markup


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder, in place of an older one, and return its path.

    The page depends on the folder alone: written twice, it is the same bytes.

    Args:
        folder: A run folder. An unfinished run gives a page that says so.

    Raises:
        UsageError: If a file of the run folder is missing.
        IntegrityError: If one is damaged, or two contradict each other.
        OSError: If the page cannot be written, for example because the disk is full.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected the folder of a run, found none; check the path")
    run = read_run(folder)
    people = read_people(folder, [name for name, _ in run.header.partners])
    path = folder / REPORT
    write_atomically(path, render(run, people).encode())
    return path


def render(run: Run, people: Sequence[Person]) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=PackageLoader("silhouette_simulations.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": _score,
        "signed": _signed,
        "count": lambda value: f"{value:,}",
        "percent": lambda value: f"{100 * value:.1f} %",
        "figures": setting,
        "duration": duration,
        "day": lambda value: f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d}",
        "words": words,
        "size": size,
        "brief": lambda seconds: f"{1000 * seconds:.0f} ms" if seconds < 1 else duration(seconds),
    }
    environment.tests["above_majority"] = _above_majority
    privacy = run.privacy
    return environment.get_template("page.html").render(
        run=run,
        header=run.header,
        plan=run.plan,
        written=_moment(run.header.written),
        findings=findings(run),
        labels={row.name: row.label for row in run.rows},
        rows_picture=_rows_picture(run),
        convergence=_convergence(run),
        rounds_lost=sum(one.refused for one in run.rounds),
        privacy=privacy,
        secure=secure_summary(run),
        epsilon_picture=_epsilon_picture(run),
        spent={one.partner: one for one in privacy.partners},
        alike=len({(one.epsilon, one.noise_multiplier) for one in privacy.partners}) <= 1,
        partner_rows=[row for row in run.rows if any(one.row == row.name for one in run.partner_scores)],
        attributes=_by_attribute(run),
        partner_scores={(one.partner, one.row): one for one in run.partner_scores},
        long=_LONG,
        people=[(person, _weights(person)) for person in people],
        people_share_one_partner=len({person.partner for person in people}) < len(people),
    )


def duration(seconds: float) -> str:
    """Seconds in the words of a clock.

    >>> duration(4.26), duration(192.4), duration(3725)
    ('4.3 s', '3 min 12 s', '1 h 2 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """Bytes with a unit, to three digits.

    >>> size(332), size(14_704), size(40_000_000)
    ('332 B', '14.7 kB', '40.0 MB')
    """
    if count < 1000:
        return f"{count:.0f} B"
    return f"{count / 1000:.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def words(name: str) -> str:
    """A name of the files as words of a sentence.

    >>> words("federated_private")
    'federated private'
    """
    return name.replace("_", " ")


def _score(value: float | None) -> str:
    return "–" if value is None else score(value)


def _signed(value: float) -> str:
    text = score(value)
    return text.replace("-", "\u2212") if text.startswith("-") else f"+{text}"


def _moment(written: str) -> str:
    """An ISO 8601 time as a person writes it, in UTC; what is none is shown as it stands."""
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return written
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _above_majority(one: AttributeRow) -> bool:
    """Whether an accuracy is more than two standard errors above the majority rate."""
    rate = one.majority_rate
    error = math.sqrt(rate * (1 - rate) / max(1, one.people))
    return one.accuracy > rate + 2 * error


def _by_attribute(run: Run) -> list[AttributeRow]:
    """Scores of one attribute stand together, so that rows can be compared."""
    order = list(dict.fromkeys(one.attribute for one in run.attributes))
    return sorted(run.attributes, key=lambda one: order.index(one.attribute))


def _rows_picture(run: Run) -> Picture:
    bars = [
        Bar(
            row.name,
            row.label,
            row.ndcg_at_10,
            row.ndcg_low,
            row.ndcg_high,
            emphasis=row.name in ("federated", "federated_private"),
        )
        for row in run.rows
    ]
    popular = run.row("popularity")
    reference = None if popular is None else Reference("popularity", popular.ndcg_at_10)
    title = "NDCG@10 of every row: " + ", ".join(f"{bar.label} {score(bar.value)}" for bar in bars)
    wide, narrow = (
        Markup(  # noqa: S704 - built as an XML tree, so every label in it is escaped
            bar_chart(
                bars,
                title=title,
                x_label="NDCG@10, with 95 % interval",
                width=width,
                reference=reference,
            )
        )
        for width in (WIDE, NARROW)
    )
    return Picture(wide, narrow)


def _convergence(run: Run) -> Picture | None:
    lines = []
    for name in _CURVES:
        points = _curve(run, name)
        if points:
            row = run.row(name)
            lines.append(Line(name, row.label if row else words(name), points))
    if not lines:
        return None
    popular = run.row("popularity")
    reference = None if popular is None else Reference(popular.label, popular.ndcg_at_10)
    title = "NDCG@10 against rounds; last values: " + ", ".join(
        f"{line.label} {score(max(line.points)[1])}" for line in lines
    )
    return _lines(lines, title, "NDCG@10", reference)


def _curve(run: Run, name: str) -> tuple[tuple[float, float], ...]:
    """NDCG by round; trainings named `name/partner` are averaged over all partners' people."""
    people = dict(run.header.partners)
    everybody = sum(people.values())
    sums: dict[int, float] = {}
    heard: dict[int, int] = {}
    for one in run.rounds:
        row, _, partner = one.row.partition("/")
        if row == name and one.ndcg_at_10 is not None:
            weight = people.get(partner, 0) if partner else everybody
            sums[one.round] = sums.get(one.round, 0.0) + weight * one.ndcg_at_10
            heard[one.round] = heard.get(one.round, 0) + weight
    # A round that some partners have not reached would be a mean over other people.
    return tuple((float(number), sums[number] / everybody) for number in sorted(sums) if heard[number] == everybody > 0)


def _epsilon_picture(run: Run) -> Picture | None:
    points = tuple((float(number), spent) for number, spent in run.privacy.curve)
    if not points or run.privacy.mode == "none":
        return None
    last = max(points)
    title = f"Epsilon spent against rounds, {last[1]:.2f} after round {last[0]:.0f}"
    budget = Reference(f"Budget of the plan, {run.plan.privacy.epsilon:g}", run.plan.privacy.epsilon)
    return _lines([Line("epsilon", "Epsilon spent", points)], title, "Epsilon", budget)


def _lines(lines: Sequence[Line], title: str, y_label: str, reference: Reference | None) -> Picture:
    wide, narrow = (
        Markup(  # noqa: S704 - as above
            line_chart(
                lines,
                title=title,
                x_label="Round",
                y_label=y_label,
                width=width,
                reference=reference,
            )
        )
        for width in (WIDE, NARROW)
    )
    return Picture(wide, narrow)


def _weights(person: Person) -> Markup | None:
    if not person.weights:
        return None
    weights = sorted(person.weights, key=lambda entry: -entry[1])
    title = "Dimension weights: " + ", ".join(f"{words(name)} {100 * weight:.0f} %" for name, weight in weights)
    shown = [(words(name), weight) for name, weight in weights]
    return Markup(weight_bars(shown, title=title))  # noqa: S704 - as above
