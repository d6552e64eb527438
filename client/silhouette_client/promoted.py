"""The promoted model at a node: taken only with its signed alias and card, and never an older one again.

<home>/node/model/  alias.json              the last alias that was accepted; what a later one is held against
                    <number>/               model.safetensors and card.json of that alias

The coordinator brings it over the line that the rounds use; `silhouette node take` takes it from a folder. The alias is
replaced last, so that a kill leaves the model before or the new one, whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from silhouette_client.enrolment.home import NodeHome
from silhouette_shared.cards import Accepted, Alias, accept_alias, accept_card, accept_promoted, check_privacy
from silhouette_shared.enrolment.documents import Succession
from silhouette_shared.enrolment.refusals import CodedRefusalError
from silhouette_shared.errors import IntegrityError, UnavailableError, UsageError
from silhouette_shared.files import stamp, write_atomically

_BYTES_A_PARAMETER = 5  # float32, and what safetensors writes before them

ALIAS, CARD, MODEL = "alias.json", "card.json", "model.safetensors"


def signing_keys(home: NodeHome) -> tuple[bytes, ...]:
    """The coordinator's keys as the pinned roster tells them, the newest last."""
    roster = home.roster()
    followed = (Succession.decode(one.encode("utf-8")) for one in roster.successions)
    return (*(bytes.fromhex(one.previous) for one in followed), bytes.fromhex(roster.signer))


def take_promoted(home: NodeHome, folder: Path) -> Accepted:
    """Take the promoted model from a folder that the coordinator exported.

    Args:
        home: An installed node.
        folder: With alias, card and model.

    Raises:
        UsageError: If a file is missing: a model that is not promoted has no alias.
        ForgedDocumentError, MalformedError, OtherModelError: If anything is not as the coordinator signed it.
        OlderAliasError, TwoAliasesError: If another alias was accepted here since.
        IntegrityError: If the card's epsilon does not follow from its releases.
        UnavailableError: If it cannot be written; the model before stays.
    """
    return take(home, _read(folder / ALIAS), _read(folder / CARD), _read(folder / MODEL))


def is_missing(home: NodeHome, alias: bytes, card: bytes, *, largest: int) -> bool:
    """Whether a promoted model is to be sent here: it may be taken, and is not held yet.

    Args:
        home: An installed node.
        alias: The signed alias that the coordinator shows.
        card: The signed card that it names.
        largest: Parameters of the largest model that is taken.

    Raises:
        ForgedDocumentError, MalformedError, OtherModelError: If either is not as the coordinator signed it.
        OlderAliasError, TwoAliasesError: If another alias was accepted here since.
        CodedRefusalError: If the model is larger than the policy allows.
    """
    keys = signing_keys(home)
    chosen = accept_alias(alias, keys, _known(home))
    found = accept_card(chosen, card, keys)
    if found.parameters > largest or found.size > _BYTES_A_PARAMETER * largest:
        raise CodedRefusalError(
            "largest_model",
            f"expected a model of at most {largest} parameters, got {found.parameters} in {found.size} bytes; raise "
            "the limit in policy.toml, or promote a smaller one",
            {"allowed": largest, "asked": found.parameters},
        )
    try:
        held = held_model(home)
    except IntegrityError:
        return True  # what is here was damaged
    return held is None or held.alias != chosen


def take(home: NodeHome, alias: bytes, card: bytes, model: bytes) -> Accepted:
    """Take the promoted model, every check passed; errors as `take_promoted` but for missing files."""
    with _taking(home):
        return _take(home, alias, card, model)


@contextmanager
def _taking(home: NodeHome) -> Iterator[None]:
    """One at a time: what was accepted last is compared with, and then replaced."""
    try:
        file = os.open(home.folder / ".model.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UnavailableError(
            f"{home.folder}: cannot be written: {error.strerror or error}; mend that and take the model again"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _take(home: NodeHome, alias: bytes, card: bytes, model: bytes) -> Accepted:
    found = accept_promoted(alias, card, model, signing_keys(home), _known(home))
    check_privacy(found.card)
    place = _folder(home)
    kept = place / str(found.alias.number)
    try:
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(kept / MODEL, found.model, mode=0o600)
        write_atomically(kept / CARD, card, mode=0o600)
        write_atomically(place / ALIAS, alias, mode=0o600)
    except OSError as error:
        raise UnavailableError(
            f"{place}: cannot be written: {error.strerror or error}; the model before stays: mend that and take it "
            "again"
        ) from error
    for other in place.iterdir():
        if other.is_dir() and other.name != kept.name:
            shutil.rmtree(other)
    return found


def held_model(home: NodeHome) -> Accepted | None:
    """The promoted model that this node holds, checked again; None if it never took one.

    Raises:
        IntegrityError: If it is damaged.
    """
    alias = _known(home)
    while alias is not None:
        keys = signing_keys(home)
        kept = _folder(home) / str(_number(alias, keys))
        try:
            return accept_promoted(alias, (kept / CARD).read_bytes(), (kept / MODEL).read_bytes(), keys)
        except OSError as error:
            before, alias = alias, _known(home)
            if alias == before:  # else another was taken meanwhile, and the files of this one went
                raise IntegrityError(
                    f"{kept}: expected the promoted model, got {error.strerror or error}; take it from the coordinator "
                    "again"
                ) from None
    return None


def held_stamp(home: NodeHome) -> tuple[int, ...]:
    """Changes whenever another promoted model is taken; empty if none was. Reads no model."""
    return stamp(_folder(home) / ALIAS)


def held_number(home: NodeHome) -> int:
    """Number of the last alias that was accepted here; 0 if none was."""
    alias = _known(home)
    return 0 if alias is None else _number(alias, signing_keys(home))


def _number(alias: bytes, keys: tuple[bytes, ...]) -> int:
    found: Alias = accept_alias(alias, keys, None)
    return found.number


def _folder(home: NodeHome) -> Path:
    return home.folder / "model"


def _known(home: NodeHome) -> bytes | None:
    path = _folder(home) / ALIAS
    return path.read_bytes() if path.exists() else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path}: expected a file of the promoted model, got {error.strerror or error}; ask the coordinator for "
            "`silhouette model export promoted`"
        ) from None
