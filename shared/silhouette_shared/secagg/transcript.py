"""The public record of a round: who took part, and that the sum belongs to it.

A transcript holds the manifest, every key, the signed digest of every vector in the sum, the signatures on that set
and the secrets that were opened to remove its masks. It needs no trust in the coordinator: whoever knows the pinned
keys can check all of it and, with the masked vectors (which reveal no more than the sum, like the secrets), the sum
as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from silhouette_shared.errors import UsageError
from silhouette_shared.secagg.aborts import COORDINATOR, ForgedError, Step
from silhouette_shared.secagg.checks import (
    check_adverts,
    check_agreements,
    check_manifest,
    check_masked,
    check_secret,
    enough,
    in_order,
    read,
    remove_masks,
    same_context,
    trust,
)
from silhouette_shared.secagg.masking import WORD, Words, check_words, vector_digest
from silhouette_shared.secagg.messages import (
    NOTHING,
    Manifest,
    Pins,
    Transcript,
    ahead_context,
    dealers_context,
    genesis,
    manifest_context,
    masks_context,
    roll_context,
    survivors_context,
    transcript_context,
    transcript_digest,
)
from silhouette_shared.secagg.standing import NOWHERE, Standing


@dataclass(frozen=True)
class Checked:
    """A transcript that passed every check.

    Args:
        manifest: What the round was.
        survivors: Whose vectors are in the sum.
        dropped: Who gave keys and shares but no vector.
        sum_digest: SHA-256 of the sum's words.
        digest: What the next manifest names as its previous transcript.
        context: What the masks were derived under.
        transcript: All of it.
    """

    manifest: Manifest
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    sum_digest: bytes
    digest: bytes
    context: bytes
    transcript: Transcript

    @property
    def round(self) -> int:
        """The round's number."""
        return self.manifest.round


def verify_transcript(data: bytes, pins: Pins, *, run: str, previous: bytes, last: Manifest | None = None) -> Checked:
    """Check a round's transcript against the pinned keys and the transcript before it.

    Args:
        data: Encoded `Transcript`.
        pins: The coordinator's key and every partner's.
        run: The run that it must belong to.
        previous: Digest of the transcript before it, `genesis(run)` for the first.
        last: The manifest of the transcript before it: with it, the origin of keys sent ahead is checked too.

    Raises:
        ForgedError: Naming the party whose part does not fit.
        NotAgreedError: If the manifest is one that no partner may accept.
        TooFewError: If fewer than the threshold took part.
    """
    step = Step.TRANSCRIPT
    found = read(Transcript, data, step, COORDINATOR)
    if len(found.manifest) != 1:
        raise ForgedError(step, "expected one manifest, got none", COORDINATOR)
    (manifest,) = found.manifest
    check_manifest(manifest, pins, step)
    if manifest.run != run or manifest.previous != previous:
        expected = (
            "expected the first transcript of this run, got a later one (a partner that was started again has seen "
            "none, and is told all of them when the next round begins)"
            if manifest.run == run and previous == genesis(run)
            else "expected the transcript that follows the last one of this run, got another"
        )
        raise ForgedError(step, expected, COORDINATOR)
    threshold, names = manifest.threshold, manifest.names
    context = manifest_context(manifest)
    keys = context if manifest.ahead == NOTHING else manifest.ahead
    if last is not None and manifest.ahead != NOTHING:
        same_context(manifest.ahead, ahead_context(last), step, COORDINATOR)
    check_adverts(found.adverts, names, pins, threshold, keys)
    adverts = {advert.sender: advert for advert in found.adverts}
    dealers = tuple(secret.owner for secret in found.secrets)
    in_order(dealers, tuple(adverts), step, COORDINATOR)
    enough(len(dealers), threshold, step)
    masks = masks_context(context, dealers_context(roll_context(keys, found.adverts), dealers))
    check_masked(found.masked, dealers, pins, threshold, masks)
    survivors = tuple(one.sender for one in found.masked)
    agreed = survivors_context(masks, found.masked)
    check_agreements(found.agreements, survivors, pins, threshold, agreed)
    for secret in found.secrets:
        check_secret(secret, adverts[secret.owner], secret.owner in survivors)
    trust(found, pins.coordinator, transcript_context(agreed), step, COORDINATOR)
    return Checked(
        manifest=manifest,
        survivors=survivors,
        dropped=tuple(name for name in dealers if name not in survivors),
        sum_digest=found.sum_digest,
        digest=transcript_digest(found),
        context=masks,
        transcript=found,
    )


def verify_chain(transcripts: Sequence[bytes], pins: Pins, run: str) -> tuple[Checked, ...]:
    """Check all transcripts of a run from its first round on.

    Raises:
        ForgedError: As `verify_transcript`; also if rounds do not go up.
    """
    checked: list[Checked] = []
    for data in transcripts:
        before = checked[-1] if checked else None
        one = verify_transcript(
            data,
            pins,
            run=run,
            previous=genesis(run) if before is None else before.digest,
            last=None if before is None else before.manifest,
        )
        if before is not None and one.round <= before.round:
            raise ForgedError(Step.TRANSCRIPT, "expected rounds that go up, got an earlier one", COORDINATOR)
        checked.append(one)
    return tuple(checked)


def check_ledgers(chain: Iterable[Checked]) -> None:
    """Check that no partner's ledger went back or became another one from round to round.

    Raises:
        ForgedError: Naming the partner.
    """
    newest: dict[str, Standing] = {}
    for one in chain:
        for advert in one.transcript.adverts:
            before, now = newest.get(advert.sender, NOWHERE), Standing.decode(advert.ledger)
            if now.entries < before.entries or (now.entries == before.entries and now != before):
                raise ForgedError(
                    Step.TRANSCRIPT,
                    f"expected its ledger to hold the entry {before.entries} that it signed before, got one that ends "
                    f"at {now.entries} in round {one.round}; an older copy was put back",
                    advert.sender,
                )
            newest[advert.sender] = now


def verify_sum(checked: Checked, total: Words, vectors: Iterable[tuple[str, Words]]) -> None:
    """Check that a sum is the one of its transcript, from the masked vectors themselves.

    Memory is two vectors, however many there are.

    Args:
        checked: A transcript that passed `verify_transcript`.
        total: The sum modulo 2**32, uint32.
        vectors: Each survivor's masked vector, in the roster's order.

    Raises:
        ForgedError: If a vector is not the one its partner signed, or they do not add up to the sum.
        UsageError: If a vector has another form.
    """
    step = Step.TRANSCRIPT
    size = sum(section.size for section in checked.manifest.sections)
    check_words(total, size)
    if vector_digest(total) != checked.sum_digest:
        raise ForgedError(step, "expected the sum that the transcript names, got another", COORDINATOR)
    again = np.zeros(size, WORD)
    signed = iter(checked.transcript.masked)
    for name, vector in vectors:
        one = next(signed, None)
        if one is None or one.sender != name:
            raise ForgedError(step, "expected the survivors' vectors in the roster's order, got others", name)
        if vector_digest(check_words(vector, size)) != one.digest:
            raise ForgedError(step, "expected the vector that this partner signed, got another", name)
        np.add(again, vector, out=again)
    if next(signed, None) is not None:
        raise UsageError("expected every survivor's masked vector, got fewer; give all")
    adverts = {advert.sender: advert for advert in checked.transcript.adverts}
    names = checked.manifest.names
    remove_masks(again, names, checked.survivors, adverts, checked.transcript.secrets, checked.context)
    if not np.array_equal(again, total):
        raise ForgedError(step, "expected the sum of the survivors' vectors, got another", COORDINATOR)
