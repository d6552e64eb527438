"""What in a registry's files is not as its entries say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from silhouette_server.registry.entries import Named
from silhouette_server.registry.model_files import Model, ModelFiles
from silhouette_server.registry.state import Contents, RunView
from silhouette_shared.cards.documents import Alias, Card
from silhouette_shared.errors import IntegrityError, SilhouetteError


@dataclass(frozen=True)
class Fault:
    """Something in a registry that is not as it was written."""

    place: str
    what: str


def faults_of(
    contents: Contents, files: ModelFiles, keys: Sequence[bytes], model_of: Callable[[str], Model]
) -> Iterator[Fault]:
    """Everything that is wrong with models, cards and aliases.

    Args:
        contents: What the entries come to.
        files: Of the models.
        keys: That the coordinator signs and has signed with.
        model_of: Gives a model by run:round, its card checked.
    """
    for run in contents.runs.values():
        for one in run.committed:
            yield from _model_faults(run, one.number, model_of)
    for named in contents.named:
        yield from _alias_faults(named, keys)
    yield from _unknown_files(contents, files)


def _model_faults(run: RunView, number: int, model_of: Callable[[str], Model]) -> Iterator[Fault]:
    reference = f"{run.name}:{number}"
    try:
        model = model_of(reference)
        model.read()
        _check_card(model.card, run, number)
    except SilhouetteError as error:
        yield Fault(reference, str(error))


def _alias_faults(named: Named, keys: Sequence[bytes]) -> Iterator[Fault]:
    try:
        alias = Alias.decode(named.document.encode("ascii"), keys)
        if (alias.run, alias.round, alias.number) != (named.run, named.round, named.number):
            raise IntegrityError("expected an alias of the entry that holds it, got another")
    except SilhouetteError as error:
        yield Fault(f"alias {named.number}", str(error))


def _unknown_files(contents: Contents, files: ModelFiles) -> Iterator[Fault]:
    """Models of rounds that the registry has never begun: an older copy of it was put back."""
    for run, number, path in files.rounds():
        if run not in contents.runs or number not in contents.runs[run].rounds:
            yield Fault(
                f"{run}:{number}",
                f"{path}: expected files of rounds that the registry knows, got one of a round that it does not; "
                "an older copy of the registry was put back: put back the newest",
            )


def _check_card(card: Card, run: RunView, number: int) -> None:
    said = (card.run, card.round, card.plan_digest, card.edition)
    written = (run.name, number, run.plan_digest, run.rounds[number].edition)
    if said != written:
        raise IntegrityError(f"{run.name}:{number}: expected a card that says what the registry says, got another")
