"""`silhouette node check`: everything a node needs, looked at one by one. It reads and changes nothing."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import ec

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.enrolment.installing import check_own_place
from silhouette_client.ingest.folder import manifest_of
from silhouette_client.policy.ledger_store import LEDGER_NAME, read_chain
from silhouette_client.policy.terms import read_policy
from silhouette_client.profiles.credential import CREDENTIAL, credential
from silhouette_client.profiles.keys import KEYS_NAME, KeyFile, Passphrase, protection_of, read_keyring
from silhouette_shared.enrolment.certificates import (
    State,
    Validity,
    check_dates,
    check_issued,
    check_purpose,
    public_bytes,
)
from silhouette_shared.enrolment.refusals import NotYetValidError, OtherKeyError
from silhouette_shared.errors import SilhouetteError, UsageError

_CLOCKS_DIFFER = timedelta(hours=1)
_RENEW = "ask the coordinator for a new kit"


class Outcome(StrEnum):
    """How a check ended."""

    ok = "ok"
    warning = "warning"
    failed = "failed"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    outcome: Outcome
    text: str
    exit_code: int = 0  # of what failed


def examine(home: NodeHome, now: datetime) -> tuple[Finding, ...]:
    """Look at everything that a node needs.

    Args:
        home: Of the node.
        now: In UTC.
    """
    checks: tuple[tuple[str, Callable[[NodeHome, datetime], Iterator[str]]], ...] = (
        ("folder", _folder),
        ("keys", _keys),
        ("certificate", _certificate),
        ("roster", _roster),
        ("policy", _policy),
        ("people", _people),
        ("profiles", _profiles),
        ("ledger", _ledger),
        ("clock", _clock),
    )
    return tuple(_finding(name, check, home, now) for name, check in checks)


def _finding(name: str, check: Callable[[NodeHome, datetime], Iterator[str]], home: NodeHome, now: datetime) -> Finding:
    """A check yields what it found; a text that begins with `!` is a warning."""
    try:
        found = list(check(home, now))
    except SilhouetteError as error:
        return Finding(name, Outcome.failed, str(error), error.exit_code)
    except (OSError, ValueError) as error:
        return Finding(name, Outcome.failed, " ".join(str(error).split()), SilhouetteError.exit_code)
    outcome = Outcome.warning if any(text.startswith("!") for text in found) else Outcome.ok
    return Finding(name, outcome, "; ".join(text.removeprefix("!") for text in found))


def _folder(home: NodeHome, now: datetime) -> Iterator[str]:
    if not home.folder.is_dir():
        raise UsageError(f"{home.folder}: expected a node, found none; run `silhouette node init NAME --people N`")
    mode = stat.S_IMODE(home.folder.stat().st_mode)
    if mode & 0o077:
        raise UsageError(f"{home.folder}: expected mode 700, got {mode:o}; chmod 700 {home.folder}")
    yield f"{home.name}, {home.declared_people} people declared, in {home.folder}"


def _keys(home: NodeHome, now: datetime) -> Iterator[str]:
    identity, supernode = home.identity(), home.supernode_key()
    home.client_key()
    if supernode.public_key() != home.supernode_public():
        raise OtherKeyError(
            f"{home.folder}: expected supernode.pub to belong to supernode.key, it does not; put it back"
        )
    yield f"three keys for their owner alone; identity {identity.public.hex()[:16]}"


def _certificate(home: NodeHome, now: datetime) -> Iterator[str]:
    authority, certificate = home.authority(), home.certificate()
    check_issued(certificate, authority, "client.pem")
    check_purpose(certificate, server=False, whose="client.pem")
    public = certificate.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or public_bytes(public) != public_bytes(
        home.client_key().public_key()
    ):
        raise OtherKeyError(f"{home.certificate_path}: expected the certificate of client.key, got another; {_RENEW}")
    for whose, one in (("authority.pem", authority), ("client.pem", certificate)):
        state, validity = check_dates(one, now, whose, _RENEW), Validity.of(one)
        soon = f"!expires soon, {_RENEW}: " if state is State.soon else ""
        yield f"{soon}{whose} until {validity.ends:%Y-%m-%d} ({validity.days_left(now)} days)"


def _roster(home: NodeHome, now: datetime) -> Iterator[str]:
    roster = home.roster()
    check_own_place(home, roster.member(home.name), str(home.certificate().serial_number))
    active = roster.active
    if len(active) < 3:
        yield f"!{len(active)} active partners, a run needs three"
    yield f"{roster.consortium}, number {roster.version}, active: {', '.join(active)}"


def _policy(home: NodeHome, now: datetime) -> Iterator[str]:
    policy = read_policy(home.policy_path)
    if not home.policy_path.exists():
        yield "!no policy.toml, so the defaults hold: `silhouette policy show` prints them"
    if "none" in policy.modes:
        yield "!runs without privacy are allowed"
    if not policy.secure_aggregation:
        yield "!runs without secure aggregation are allowed"
    modes = ", ".join(policy.modes)
    yield f"modes {modes}, epsilon {policy.epsilon_per_run:g} a run, {policy.epsilon_per_year:g} a year"


def _people(home: NodeHome, now: datetime) -> Iterator[str]:
    if manifest_of(home.people).is_file():
        yield f"taken in to {home.people}: `silhouette node describe` counts them"
        return
    missing = [name for name in ("events.parquet", "users.parquet") if not (home.people / name).is_file()]
    yield f"!no {' and no '.join(missing)} in {home.people} yet" if missing else f"tables in {home.people}"


def _profiles(home: NodeHome, now: datetime) -> Iterator[str]:
    """Whether an agent that nobody watches can open the keys; without them it knows nobody who is left out."""
    path = home.folder.parent / KEYS_NAME
    if not path.exists():
        yield "no keys yet: `silhouette profile build` makes them"
        return
    kind = protection_of(path)
    if kind == Passphrase.kind and credential() is None:
        yield (
            f"!the keys are under a passphrase and no credential {CREDENTIAL} is here: a service that starts by itself "
            "needs it, or the node takes part in no round"
        )
        return
    read_keyring(path)
    yield f"the keys open without a person, protected by {'their mode alone' if kind == KeyFile.kind else kind}"


def _ledger(home: NodeHome, now: datetime) -> Iterator[str]:
    path = home.folder / LEDGER_NAME
    if not path.exists():
        yield "none yet: it begins with the node's first start"
        return
    yield f"{len(read_chain(path))} entries, whole"


def _clock(home: NodeHome, now: datetime) -> Iterator[str]:
    seen = {"the roster": datetime.fromtimestamp(home.roster().issued, UTC)} if home.installed else {}
    path = home.folder / LEDGER_NAME
    if path.exists():
        seen["the ledger's last entry"] = read_chain(path).entries[-1].time
    for what, when in seen.items():
        if now < when - _CLOCKS_DIFFER:
            raise NotYetValidError(
                f"expected a clock that is not behind {what} ({when:%Y-%m-%d %H:%M} UTC), got {now:%Y-%m-%d %H:%M}; "
                "set it"
            )
    yield f"{now:%Y-%m-%d %H:%M} UTC"
