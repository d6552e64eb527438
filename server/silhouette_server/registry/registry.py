"""The coordinator's registry: a journal of signed entries and the files of the models.

    <home>/coordinator/registry.sqlite   the entries
    <home>/coordinator/models/<run>/     safetensors and signed card of every committed round

Every operation is one entry. Files come first and are flushed before the entry that names them, so whatever happens in
between, a round is committed with everything that belongs to it, or not committed.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from torch import Tensor

from silhouette_server.registry.entries import Amended, Begun, Committed, Moved, Named, Submitted, Voided
from silhouette_server.registry.journal import Clock, Journal, utc_now
from silhouette_server.registry.model_files import Model, ModelFiles
from silhouette_server.registry.promotion import Margin, Verdict, compare
from silhouette_server.registry.spending import released
from silhouette_server.registry.state import Contents, RoundState, RunState, RunView, TransitionError, UnknownError
from silhouette_server.registry.verification import Fault, faults_of
from silhouette_shared.cards.checks import check_privacy
from silhouette_shared.cards.content import pack_model
from silhouette_shared.cards.documents import (
    PROMOTED,
    Alias,
    Audit,
    Card,
    Evaluation,
    Parent,
    Spent,
    SpentOn,
    card_digest,
)
from silhouette_shared.closing import Closing
from silhouette_shared.config import Plan, parse_plan, write_toml
from silhouette_shared.errors import IntegrityError, RefusedError, UsageError
from silhouette_shared.model.vector import Layout
from silhouette_shared.privacy.audit.result import digest as audit_digest
from silhouette_shared.privacy.audit.result import require_passed
from silhouette_shared.privacy.statement import Release
from silhouette_shared.secagg.keys import Identity

REGISTRY_NAME = "registry.sqlite"
"""Of the registry in the coordinator's folder."""

PREVIOUS = "previous"
"""Names the model that a rollback goes back to."""

_LOOKS = 3  # at what looks wrong while another process writes
_LONGEST = 40  # of a run's name, which also names a folder at every partner


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a run is to be, beside its plan.

    Args:
        offer: The signed offer; empty before there is one.
        catalogue: Digest of the catalogue.
        roster: Version of the roster.
        partners: Declared people by name.
        start: The model to start from: "promoted" or run:round; empty for a fresh one.
        name: Of the run; empty takes the plan's with a number.
    """

    offer: bytes = b""
    catalogue: str = ""
    roster: int = 0
    partners: Mapping[str, int] | None = None
    start: str = ""
    name: str = ""


class Registry(Closing):
    """Runs, rounds, models and the alias of one coordinator.

    Safe to share between threads, and between processes that each open it.
    """

    def __init__(self, journal: Journal, files: ModelFiles, identity: Identity | None, keys: Sequence[bytes]) -> None:
        self._journal = journal
        self._files = files
        self._identity = identity
        self._keys = tuple(keys)

    @classmethod
    def open(
        cls, path: Path, identity: Identity | None, former: Sequence[bytes] = (), *, clock: Clock = utc_now
    ) -> Self:
        """Open the registry at `path`, or begin one there.

        Args:
            path: `<home>/coordinator/registry.sqlite`; models lie in the folder `models` beside it.
            identity: The coordinator's signing key; None reads alone.
            former: Public keys that it had before; to read alone, all that it had, the latest last.
            clock: For tests.

        Raises:
            UsageError: If there is none to read.
            IntegrityError: If it is damaged.
            UnavailableError: If the disk fails, another process holds it for long, or a newer version made it.
        """
        keys = (*former, *(() if identity is None else (identity.public,)))
        return cls(
            Journal.open(path, identity, former, clock=clock), ModelFiles(path.parent / "models"), identity, keys
        )

    def close(self) -> None:
        """Close it."""
        self._journal.close()

    # Runs

    def submit(self, plan: Plan, submission: Submission | None = None) -> RunView:
        """Put a run into the registry; it waits for whoever takes submitted runs.

        Raises:
            TransitionError: If the name is taken.
            UnknownError: If the model to start from is not there.
            IntegrityError: If that model is damaged.
            UsageError: If one of the two, that model and this plan, is private and the other is not.
        """
        asked = Submission() if submission is None else submission
        parent = self.start_of(asked.start, plan) if asked.start else None
        name = asked.name

        def make(contents: Contents) -> Submitted:
            nonlocal name
            name = name or _free_name(plan.name, contents)
            return Submitted(
                run=name,
                plan=write_toml(plan),
                plan_digest=plan.digest,
                rounds=plan.training.rounds if plan.privacy.mode == "none" else plan.privacy.rounds,
                offer=hashlib.sha256(asked.offer).hexdigest() if asked.offer else "",
                catalogue=asked.catalogue,
                roster=asked.roster,
                partners=dict(asked.partners or {}),
                parent=None
                if parent is None
                else Parent(
                    run=parent.card.run,
                    round=parent.card.round,
                    card=card_digest(parent.signed_card),
                    model=parent.card.model,
                ),
            )

        return self._journal.append(make).run(name)

    def start_of(self, reference: str, plan: Plan) -> Model:
        """The model that a run of this plan may start from, its bytes checked.

        Raises:
            UnknownError: If there is none of this name.
            IntegrityError: If it is damaged.
            UsageError: If one of the two, that model and this plan, is private and the other is not.
        """
        model = self.model(reference)
        model.read()
        if (model.card.spent is None) != (plan.privacy.mode == "none"):
            kinds = ("without", "with") if model.card.spent is None else ("with", "without")
            raise UsageError(
                f"{reference}: expected a plan {kinds[0]} privacy after a model made {kinds[0]}, got one {kinds[1]}; "
                "what it cost could not be said: start a fresh model"
            )
        return model

    def runs(self) -> tuple[RunView, ...]:
        """All runs, the oldest first."""
        return tuple(self._journal.contents().runs.values())

    def run(self, name: str) -> RunView:
        """One run; UnknownError if there is none of this name."""
        return self._journal.contents().run(name)

    def plan(self, name: str) -> Plan:
        """The plan of a run."""
        return _plan(self.run(name).submission.plan, name)

    def set_state(self, name: str, state: RunState | str, reason: str = "") -> RunView:
        """Bring a run into another state; one that it is in already is left as it is.

        Raises:
            TransitionError: If that state may not follow.
        """
        wanted = RunState(state)
        if (now := self.run(name)).state is wanted:
            return now
        return self._journal.append(lambda contents: Moved(run=name, state=wanted.value, reason=reason)).run(name)

    def request_stop(self, name: str, reason: str = "asked to stop") -> RunView:
        """Ask a run to stop after its round; one that has not begun is stopped at once.

        Raises:
            TransitionError: If nobody works on it.
        """
        if self.run(name).state is RunState.stopping:
            return self.run(name)

        def make(contents: Contents) -> Moved:
            waiting = contents.run(name).state is RunState.submitted
            return Moved(run=name, state="stopped" if waiting else "stopping", reason=reason)

        return self._journal.append(make).run(name)

    def stop_requested(self, name: str) -> bool:
        """Whether somebody asked it to stop."""
        return self.run(name).state is RunState.stopping

    # Rounds

    def last_begun(self, name: str) -> int:
        """Highest round that has begun; 0 if none has."""
        return self.run(name).last_begun

    def last_committed(self, name: str) -> int:
        """Highest round with a model; 0 if none has."""
        return self.run(name).last_committed

    def unfinished(self, name: str) -> tuple[int, ...]:
        """Rounds that have begun and have no end: after a kill, commit or void them before anything else."""
        return self.run(name).unfinished

    def begin_round(self, name: str, number: int) -> None:
        """Use up a round's number.

        Raises:
            TransitionError: If the run is not running (somebody may have asked it to stop), another round has no end,
                or the number is used up.
        """
        self._journal.append(lambda contents: Begun(run=name, round=number))

    def commit_round(
        self,
        name: str,
        number: int,
        model: Tensor,
        layout: Layout,
        *,
        metrics: Mapping[str, float] | None = None,
        transcript: bytes | None = None,
        releases: Sequence[Release] | None = None,
        evaluation: Evaluation | None = None,
        seconds: float = 0.0,
        sent: int = 0,
        received: int = 0,
        survivors: Sequence[str] = (),
    ) -> Card:
        """Give a round its model: file and signed card, flushed, then the entry. All of it is there, or none.

        Args:
            name: The run.
            number: The round, which has begun.
            model: The global model after it, (D + P,).
            layout: Of the D trained parameters.
            metrics: Numbers about the round that may be published.
            transcript: Signed record of the secure round.
            releases: What the run has released so far; None takes it from the plan and the rounds that began.
            evaluation: A charged federated evaluation, if there was one.
            seconds: That the round took.
            sent: Bytes to all partners.
            received: Bytes from all partners.
            survivors: Whose updates are in the sum.

        Raises:
            TransitionError: If the round has an end already, or has not begun.
            UnavailableError: If the disk fails or is full; the round is then not committed.
        """
        run = self.run(name)
        if run.round(number).state is not RoundState.running:
            raise TransitionError(
                f"{name}:{number}: expected a round without an end, got one that is {run.round(number).state}; "
                "a round ends once"
            )
        plan = _plan(run.submission.plan, name)
        content = pack_model(model, layout)
        card = Card(
            run=name,
            round=number,
            plan=plan.name,
            plan_digest=run.plan_digest,
            catalogue=run.submission.catalogue,
            roster=run.submission.roster,
            layout=layout.digest,
            parameters=len(model),
            model=hashlib.sha256(content).hexdigest(),
            size=len(content),
            transcript=hashlib.sha256(transcript).hexdigest() if transcript else "",
            spent=self._spent(run, plan, releases, layout.size),
            metrics=dict(metrics or {}),
            evaluation=evaluation,
            parent=run.parent,
            issued=self._journal.now(),
        )
        signed = card.encode(self._signer)
        self._files.write(self._files.model_path(name, number), content)
        self._files.write(self._files.card_path(name, number, 1), signed)
        spent = card.spent
        committed = Committed(
            run=name,
            round=number,
            card=card_digest(signed),
            model=card.model,
            seconds=seconds,
            sent=sent,
            received=received,
            survivors=tuple(survivors),
            metrics=card.metrics,
            epsilon=None if spent is None else spent.run_epsilon,
            total_epsilon=None if spent is None else spent.epsilon,
        )
        self._journal.append(lambda contents: committed)
        return card

    def void_round(self, name: str, number: int, reason: str) -> None:
        """Say that a round gives nothing.

        Raises:
            TransitionError: If it has an end already, or has not begun.
        """
        self._journal.append(lambda contents: Voided(run=name, round=number, reason=reason))
        self._files.remove(name, number)  # what an interrupted commitment left

    # Models

    def model(self, reference: str) -> Model:
        """A model by its name.

        Args:
            reference: "promoted", "previous", run:round, or a run for its last committed round.

        Raises:
            UnknownError: If there is none.
            IntegrityError: If its card is damaged.
        """
        contents = self._journal.contents()
        name, number = _resolve(reference, contents)
        found = contents.run(name).round(number)
        if found.state is not RoundState.committed:
            raise UnknownError(
                f"{name}:{number}: expected a committed round, got one that is {found.state}; it has no model"
            )
        signed = self._files.read(self._files.card_path(name, number, found.edition), found.card)
        return Model(Card.decode(signed, self._keys), signed, self._files.model_path(name, number))

    def alias(self) -> tuple[Alias, bytes] | None:
        """What is promoted, and the signed document that nodes get; None before the first promotion."""
        named = self._journal.contents().promoted
        if named is None:
            return None
        document = named.document.encode("ascii")
        return Alias.decode(document, self._keys), document

    def promoted(self) -> tuple[Alias, bytes, Model] | None:
        """The alias, its document, and the model with the very card that it names, whatever was measured since.

        Raises:
            IntegrityError: If that card is damaged or missing.
        """
        found = self.alias()
        if found is None:
            return None
        alias, document = found
        newest = self._journal.contents().run(alias.run).round(alias.round).edition
        for edition in range(newest, 0, -1):
            try:
                signed = self._files.read(self._files.card_path(alias.run, alias.round, edition), alias.card)
            except IntegrityError:
                if edition == 1:
                    raise
                continue  # an edition of before or after the promotion
            return (
                alias,
                document,
                Model(Card.decode(signed, self._keys), signed, self._files.model_path(alias.run, alias.round)),
            )
        raise IntegrityError(f"{alias.run}:{alias.round}: expected the card that the alias names, found none")

    def amend(self, reference: str, *, evaluation: Evaluation | None = None, audit: Audit | None = None) -> Card:
        """Issue a new edition of a model's card with what was measured since; errors as `model`."""
        before = self.model(reference).card
        card = before.next_edition(self._journal.now(), evaluation, audit)
        signed = card.encode(self._signer)
        self._files.write(self._files.card_path(card.run, card.round, card.edition), signed)
        amended = Amended(run=card.run, round=card.round, edition=card.edition, card=card_digest(signed))
        self._journal.append(lambda contents: amended)
        return card

    def promote(
        self,
        reference: str,
        *,
        audit: str | None = None,
        auditor: str = "",
        margin: Margin | None = None,
    ) -> tuple[Alias, Verdict]:
        """Let the alias stand for a model, if everything about it holds.

        Args:
            reference: As in `model`.
            audit: Text of a signed audit result, which then has to be of this model's plan, by this auditor, and
                passed; its digest goes onto the card.
            auditor: Public key, in hex, of the auditor who is trusted.
            margin: Instead of the plan's.

        Raises:
            IntegrityError: If card, model or audit are not as they were signed, or the card's epsilon does not follow
                from its releases.
            NotBetterError: If it is worse than the promoted model, or not shown not to be.
            RefusedError: If the audit is of something else or failed.
            TransitionError: If it is promoted already.
        """
        model = self.model(reference)
        model.read()
        check_privacy(model.card)
        if audit is not None:
            require_passed(audit, signer=auditor, plan_digest=model.card.plan_digest)
        now = self.alias()
        if now is not None and (now[0].run, now[0].round) == (model.card.run, model.card.round):
            raise TransitionError(
                f"{model.reference}: expected another model than the promoted one; there is nothing to do"
            )
        plan = self.plan(model.card.run)
        allowed = margin or Margin(plan.promotion.margin, plan.promotion.confidence)
        verdict = compare(model.card, None if now is None else self.model(PROMOTED).card, allowed)
        if audit is not None:
            reference = self.amend(
                model.reference, audit=Audit(reference=audit_digest(audit), auditor=auditor.lower())
            ).reference
            model = self.model(reference)
        return self._name(model, "promotion", verdict.text, 0 if now is None else now[0].number), verdict

    def rollback(self) -> Alias:
        """Let the alias stand again for the model before; its number still goes up.

        Raises:
            UnknownError: If there is none before.
            IntegrityError: If that model is damaged.
        """
        model = self.model(PREVIOUS)
        model.read()
        now = self.alias()
        assert now is not None  # noqa: S101 - there is one before it
        return self._name(model, "rollback", "", now[0].number)

    def _name(self, model: Model, reason: str, verdict: str, number: int) -> Alias:
        alias = Alias(
            name=PROMOTED,
            number=number + 1,
            run=model.card.run,
            round=model.card.round,
            card=card_digest(model.signed_card),
            model=model.card.model,
            reason="rollback" if reason == "rollback" else "promotion",
            issued=self._journal.now(),
        )
        named = Named(
            run=alias.run,
            round=alias.round,
            number=alias.number,
            reason=alias.reason,
            document=alias.encode(self._signer).decode("ascii"),
            verdict=verdict,
        )
        self._journal.append(lambda contents: named)
        return alias

    # Partners

    def contact(self, partner: str, state: str) -> None:
        """Keep when a partner was last seen, and how; it is shown and proves nothing."""
        self._journal.contact(partner, state)

    def contacts(self) -> dict[str, tuple[int, str]]:
        """When each partner was last seen, in UTC seconds, and how."""
        return self._journal.contacts()

    @property
    def contents(self) -> Contents:
        """Everything as it stands."""
        return self._journal.contents()

    # Verification

    def verify(self) -> tuple[Fault, ...]:
        """Check everything: database, chain, signatures, every card and every byte of every model.

        What looks wrong while a run goes on is looked at again with the entries that came meanwhile.
        """
        found = [Fault(REGISTRY_NAME, what) for what in self._journal.faults()]
        faults: tuple[Fault, ...] = ()
        try:
            for _ in range(_LOOKS):
                contents, length = self._journal.contents(), self._journal.length
                faults = tuple(faults_of(contents, self._files, self._keys, self.model))
                self._journal.contents()
                if not faults or self._journal.length == length:
                    break
        except IntegrityError as error:
            return (*found, *(() if found else (Fault(REGISTRY_NAME, str(error)),)))
        return (*found, *faults)

    # Parts

    @property
    def _signer(self) -> Identity:
        if self._identity is None:
            raise RefusedError("expected the coordinator's signing key to change a registry, got none; open it with it")
        return self._identity

    def _spent(self, run: RunView, plan: Plan, releases: Sequence[Release] | None, parameters: int) -> Spent | None:
        privacy = plan.privacy
        if privacy.mode == "none":
            return None
        before: tuple[SpentOn, ...] = ()
        if run.parent is not None:
            inherited = self.model(f"{run.parent.run}:{run.parent.round}").card.spent
            assert inherited is not None  # noqa: S101 - `submit` saw to it
            before = inherited.releases
        so_far = released(plan, len(run.rounds), parameters) if releases is None else tuple(releases)
        return Spent.count(run.name, privacy.mode, privacy.delta, privacy.epsilon, so_far, before)


def _resolve(reference: str, contents: Contents) -> tuple[str, int]:
    """Run and round of a model's name."""
    if reference in (PROMOTED, PREVIOUS):
        named = contents.promoted if reference == PROMOTED else contents.previous
        if named is None:
            raise UnknownError(
                f"expected a model that is {reference}, got none; promote one with `silhouette model promote RUN:ROUND`"
            )
        return named.run, named.round
    name, _, text = reference.partition(":")
    run = contents.run(name)
    if not text:
        if not run.last_committed:
            raise UnknownError(f"run {name}: expected a committed round, got none yet; wait for one")
        return name, run.last_committed
    if not text.isdecimal():
        raise UnknownError(f"expected promoted, previous, RUN or RUN:ROUND, got {reference!r}; change it")
    return name, int(text)


def _free_name(plan: str, contents: Contents) -> str:
    """The plan's name with the first number that is free."""
    taken = {name.lower() for name in contents.runs}
    stem = plan[: _LONGEST - 5].rstrip("-_")
    number = 1
    while f"{stem}-{number}".lower() in taken:
        number += 1
    return f"{stem}-{number}"


@lru_cache(maxsize=16)
def _plan(text: str, run: str) -> Plan:
    return parse_plan(tomllib.loads(text), source=f"the plan of run {run}", text=text)
