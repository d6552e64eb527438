"""Profiles of a node's own people from its own data: for all, or for those whose record or model changed.

A person is built again when the model or any event or declared attribute of theirs is another than that which made
their profile; the store knows (`Vault.current`). So a build that was killed goes on where it was, and the same command
again writes nothing. Each person's record is replaced whole; until the build is at its end the others keep the profile
of the model before.

A service writes beside it. Whoever was written since the build read the events is left as they are (`changes`), and a
build goes over everybody again until it finds nobody who was written with another model or other local parts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from silhouette_client.enrolment.home import NodeHome
from silhouette_client.profiles.build import build_profiles
from silhouette_client.profiles.choices import Choices
from silhouette_client.profiles.details import records_of
from silhouette_client.profiles.local_parts import digest_of, learn_parts, pack_parts
from silhouette_client.profiles.node_model import HeldModel, NodeModel, keep_parts, tidy_parts
from silhouette_client.profiles.record import ProfileRecord
from silhouette_client.profiles.vault import Vault
from silhouette_client.promoted import held_stamp
from silhouette_shared.errors import UnavailableError, UsageError
from silhouette_shared.model.histories import Histories

PEOPLE_AT_ONCE = 1024

_MOST_PASSES = 10  # one, and a second where a service or an operator changed something meanwhile


@dataclass(frozen=True)
class Held:
    """The people of a node who may be profiled: ids in the order of the histories."""

    users: tuple[str, ...]
    histories: Histories
    since: int  # `Vault.newest_change` from before they were read


@dataclass(frozen=True)
class Built:
    """What a build did, in people."""

    written: int
    unchanged: int
    removed: int  # who are not among those who may be profiled any more
    expired: int  # with older models or past their time

    def plus(self, later: Built) -> Built:
        """Both one after the other; whoever the first left unchanged and the second wrote is among the written."""
        return Built(
            self.written + later.written,
            max(0, self.unchanged - later.written) if self.written + self.unchanged else later.unchanged,
            self.removed + later.removed,
            self.expired + later.expired,
        )


def held_people(home: Path, vault: Vault, model: NodeModel, purpose: str) -> Held:
    """Everybody at a node who may be profiled: with consent, and neither erased nor suppressed.

    Raises:
        UsageError: If the node holds no events.
        RefusedError: If nobody consented.
        IntegrityError: If the records are damaged.
    """
    from silhouette_client.ingest.folder import manifest_of
    from silhouette_client.ingest.reading import read_people
    from silhouette_client.offers.people import TablesOnDisk

    since = vault.newest_change()
    left_out, folder = vault.excluded(), NodeHome.of(home).people
    if manifest_of(folder).exists() or not (folder / "events.parquet").exists():
        found = read_people(home, model.numbers, model.words.attributes, purpose, exclusions=left_out)
        return Held(found.users, found.histories, since)
    tables = TablesOnDisk(folder)
    users, histories = tables.users(), tables.histories(model.numbers, model.words.attributes)
    rows = [row for row, user in enumerate(users) if not left_out(user)]
    if not rows:
        raise UsageError(f"{folder}: expected people who may be profiled, found none; take their tables in")
    return Held(tuple(users[row] for row in rows), histories.of_people(torch.tensor(rows)), since)


def with_parts(home: Path, vault: Vault, model: NodeModel, held: Held, *, again: bool) -> NodeModel | None:
    """The model with what this node has learnt of its own people on it; None if somebody was erased while it learnt.

    Args:
        home: In which `node/` lies.
        vault: Of the node.
        model: The promoted one.
        held: Everybody who may be profiled.
        again: Learn it again, from the people as they are now.
    """
    if model.local is not None and not again:
        return model
    device = next(model.encoder.parameters()).device
    parts = learn_parts(model.name, model.encoder, held.histories.to(device), private=model.private)
    content = pack_parts(parts)
    if vault.unless_left_out(held.users, lambda: keep_parts(home, content)):
        return None
    return replace(model, local=replace(parts, digest=digest_of(content)))


def build_node(
    home: Path,
    vault: Vault,
    models: HeldModel,
    choices: Choices,
    who: str,
    *,
    everybody: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[NodeModel, Built]:
    """Build at a node what changed, with what it learns of its own people; in `one_build`. Errors as `held_people`.

    At its end every profile is of the model that is promoted then, and of events at least as new as when this began.

    Args:
        home: In which `node/` lies.
        vault: Of the node.
        models: Give the promoted one.
        choices: Whom, how many recommendations; what is kept how long is the vault's.
        who: For the audit log.
        everybody: Also those whose profile is made from the same.
        progress: Told how many are done, of how many.

    Raises:
        UnavailableError: If others wrote with another model, or erased people, each time it went over everybody.
    """
    node, done, again = NodeHome.of(home), Built(0, 0, 0, 0), everybody
    tidy_parts(home)
    for _ in range(_MOST_PASSES):
        promoted = held_stamp(node)
        model = models.newest()
        held = held_people(home, vault, model, choices.purpose)
        if held_stamp(node) != promoted:  # after the number that tells what was written since was taken
            continue
        complete = with_parts(home, vault, model, held, again=again)
        if complete is None:
            continue
        again = False
        part = _write_held(vault, complete, held, who, everybody=everybody, count=choices.count, progress=progress)
        done = done.plus(part)
        if vault.let_in_since(held.since):
            continue
        everybody = False
        if held_stamp(node) == promoted and not vault.made_otherwise(held.since, complete.name, complete.parts):
            return complete, done.plus(_without_older(vault, complete, held, who))
    raise UnavailableError(
        f"{home}: expected everybody's profile to be of the promoted model at the end, found some that others wrote "
        f"otherwise in each of {_MOST_PASSES} passes; see in the service's log why it does not follow, then build again"
    )


def build_held(
    vault: Vault,
    model: NodeModel,
    held: Held,
    who: str,
    *,
    everybody: bool = False,
    count: int = 50,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Built:
    """Write the profiles of the people held, and remove those of others and of older models; one pass.

    Args:
        vault: Of the node.
        model: To build with; its encoder is on the device to use.
        held: Everybody who may be profiled.
        who: For the audit log.
        everybody: Also those whose profile is made from the same.
        count: Recommendations a person, at most as many as there are items.
        progress: Told how many are done, of how many.
    """
    written = _write_held(vault, model, held, who, everybody=everybody, count=count, progress=progress)
    return written.plus(_without_older(vault, model, held, who))


def _write_held(
    vault: Vault,
    model: NodeModel,
    held: Held,
    who: str,
    *,
    everybody: bool,
    count: int,
    progress: Callable[[int, int], None],
) -> Built:
    """Write who is due, and remove who is not held; whoever was written or let in since they were read stays."""
    device = next(model.encoder.parameters()).device
    rows = {user: row for row, user in enumerate(held.users)}
    sources = dict(zip(held.users, sources_of(held.histories), strict=True))
    vault.revive(model.name)
    current = set() if everybody else vault.current(model.name, sources, model.parts)
    todo = vault.in_order(user for user in held.users if user not in current)
    written = 0
    for start in range(0, len(todo), PEOPLE_AT_ONCE):
        if vault.let_in_since(held.since):  # none of these would be written
            break
        users = todo[start : start + PEOPLE_AT_ONCE]
        part = held.histories.of_people(torch.tensor([rows[user] for user in users])).to(device)
        records = made_records(model, part, min(count, len(model.words.items)))
        own = {user: sources[user] for user in users}
        made = zip(users, records, strict=True)
        written += vault.put_many(made, who, "build", own, model.parts, held.since)[0]
        progress(start + len(users), len(todo))
    return Built(written, len(current), vault.keep_only(held.users, who, held.since), 0)


def _without_older(vault: Vault, model: NodeModel, held: Held, who: str) -> Built:
    """Remove what others than those held have of older models, and what is past its time."""
    return Built(0, 0, 0, vault.keep_model(model.name, who, held.since) + vault.purge(who))


def made_records(model: NodeModel, histories: Histories, count: int) -> list[ProfileRecord]:
    """In the order of the histories; those of like length are computed together, so that little is padding."""
    order = histories.lengths.argsort(stable=True)
    sorted_ones = histories.of_people(order)
    found: list[ProfileRecord] = []
    own = None if model.local is None else model.local.transitions
    for batch in build_profiles(model.encoder, sorted_ones, cutoff=count, rescored=own):
        found += records_of(model.encoder, sorted_ones, batch, model.words, model.name)
    if model.local is not None:
        found = model.local.completed(model.encoder, sorted_ones, found)
    back = order.argsort().tolist()
    return [found[place] for place in back]


def sources_of(histories: Histories) -> Sequence[bytes]:
    """32 bytes a person, which change with any event or declared attribute of theirs and nobody else's."""
    columns = [
        part.contiguous().cpu().numpy()
        for part in (histories.items, histories.behaviours, histories.values, histories.timestamps)
    ]
    texts = None if histories.texts is None else histories.texts.contiguous().cpu().numpy()
    attributes = histories.attributes.contiguous().cpu().numpy()
    offsets = histories.offsets.tolist()
    found = []
    for row in range(len(histories)):
        start, end = offsets[row], offsets[row + 1]
        digest = hashlib.blake2b(bytes([histories.has_times]), digest_size=32)
        for column in columns:
            digest.update(column[start:end].tobytes())  # all of one length, so no two histories look alike
        if texts is not None:
            digest.update(texts[start:end].tobytes())
        digest.update(attributes[row].tobytes())
        found.append(digest.digest())
    return found
