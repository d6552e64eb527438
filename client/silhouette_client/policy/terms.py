"""What a partner agrees to: `policy.toml`, one object, checked when it is built.

Every default is the careful one. A key that is unknown or out of range is an error, because a limit that is not read
protects nobody.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import fields
from datetime import datetime, time
from pathlib import Path
from typing import get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from silhouette_shared.config import PrivacyMode
from silhouette_shared.errors import UsageError
from silhouette_shared.privacy.ledger import Limits

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)")

FEWEST_PARTNERS = 3
"""With two, a sum shows each partner the other one's part."""

MOST_PARTNERS = 50
"""Of secure aggregation."""

_MEANINGS = {
    "consortium": "the only one that may ask; empty: the one whose kit is installed",
    "without": "partners with whom this node takes part in nothing",
    "partners_minimum": "fewer partners in a run are refused",
    "modes": "local: all its noise itself; distributed: only the sum is private; none: no privacy at all",
    "secure_aggregation": "true refuses runs in which the coordinator sees this partner's own answer",
    "epsilon_per_run": "of one run, for one person's whole record here",
    "epsilon_per_year": "over all runs of 365 days, as the ledger counts",
    "delta": "less than one over the people here",
    "largest_model": "parameters",
    "rounds_a_day": "in 24 hours, over all runs",
    "hours": 'in UTC, such as ["20:00-06:00"]; empty: at any time',
}


def _require(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise ValueError(f"{name}: expected {expected}, got {got}")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Policy:
    """What this partner agrees to."""

    consortium: str = ""
    without: tuple[str, ...] = ()
    partners_minimum: int = FEWEST_PARTNERS
    modes: tuple[PrivacyMode, ...] = ("local",)
    secure_aggregation: bool = True
    epsilon_per_run: float = 8.0
    epsilon_per_year: float = 12.0
    delta: float = 1e-5
    largest_model: int = 20_000_000
    rounds_a_day: int = 200
    hours: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Policy:
        least, most = FEWEST_PARTNERS, MOST_PARTNERS
        _require(
            least <= self.partners_minimum <= most, "partners_minimum", f"{least} to {most}", self.partners_minimum
        )
        _require(
            1 <= len(set(self.modes)) == len(self.modes),
            "modes",
            f"one or more of {', '.join(get_args(PrivacyMode))}, each once",
            list(self.modes),
        )
        for name in ("epsilon_per_run", "epsilon_per_year"):
            _require(0 < getattr(self, name) <= 1000, name, "a number above 0, at most 1000", getattr(self, name))
        _require(0 < self.delta < 1, "delta", "a number between 0 and 1", self.delta)
        _require(self.largest_model >= 1, "largest_model", "at least 1 parameter", self.largest_model)
        _require(self.rounds_a_day >= 1, "rounds_a_day", "at least 1 round", self.rounds_a_day)
        for span in self.hours:
            _require(_HOURS.fullmatch(span) is not None, "hours", 'spans such as "20:00-06:00"', repr(span))
        return self

    @property
    def limits(self) -> Limits:
        """What the ledger holds every charge against."""
        return Limits(epsilon_per_run=self.epsilon_per_run, epsilon_per_year=self.epsilon_per_year, delta=self.delta)

    def is_open(self, now: datetime) -> bool:
        """Whether a time, in UTC, is within the hours.

        >>> from datetime import UTC
        >>> night = Policy(hours=("20:00-06:00",))
        >>> night.is_open(datetime(2026, 1, 1, 23, tzinfo=UTC)), night.is_open(datetime(2026, 1, 1, 12, tzinfo=UTC))
        (True, False)
        """
        return not self.hours or any(_within(span, now.time().replace(tzinfo=None)) for span in self.hours)


def _within(span: str, now: time) -> bool:
    first, last = span.split("-")
    begin, end = time.fromisoformat(first), time.max if last == "24:00" else time.fromisoformat(last)
    return begin <= now < end if begin < end else now >= begin or now < end


_POLICY = TypeAdapter(Policy)


def parse_policy(text: str, source: str) -> Policy:
    """A policy from TOML.

    Raises:
        UsageError: If it is no TOML, or a key is unknown, of another type or out of range.
    """
    try:
        document = tomllib.loads(text)
        return _POLICY.validate_json(json.dumps(document, default=lambda value: {"unknown": repr(value)}))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source}: expected TOML, got a file that does not parse: {error}") from None
    except ValidationError as error:
        known = ", ".join(field.name for field in fields(Policy))
        faults = []
        for item in error.errors(include_url=False):
            where = ".".join(str(part) for part in item["loc"])
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
                message = f"unknown key; there are {known}"
            faults.append(f"{where}: {message}" if where else message)
        raise UsageError(f"{source}: not a policy: {'; '.join(faults)}; correct it") from None


def read_policy(path: Path) -> Policy:
    """The policy in a file; without a file the defaults.

    Raises:
        UsageError: If the file cannot be read, or is no policy.
    """
    try:
        return parse_policy(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        return Policy()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected a policy, got a file that cannot be read: {error}") from None


def write_policy(policy: Policy) -> str:
    """The policy as TOML, with what every key means; reading it back gives an equal one.

    >>> parse_policy(write_policy(Policy()), "here") == Policy()
    True
    """
    lines = ["# What this partner agrees to. Read when the node starts."]
    for name, meaning in _MEANINGS.items():
        value = json.dumps(getattr(policy, name), ensure_ascii=False).replace("\x7f", "\\u007f")
        lines += ["", f"# {meaning}", f"{name} = {value}"]
    return "\n".join(lines) + "\n"
