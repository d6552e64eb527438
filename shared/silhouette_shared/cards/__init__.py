"""What is said of a model, signed by the coordinator, and the checks that a node makes before it takes one."""

from silhouette_shared.cards.checks import (
    Accepted,
    accept_alias,
    accept_card,
    accept_promoted,
    check_model,
    check_privacy,
)
from silhouette_shared.cards.content import pack_model, unpack_model
from silhouette_shared.cards.documents import (
    PROMOTED,
    Alias,
    Card,
    Evaluation,
    Figure,
    Parent,
    Quality,
    Spent,
    SpentOn,
)
from silhouette_shared.cards.refusals import OlderAliasError, OtherModelError, TwoAliasesError

__all__ = [
    "PROMOTED",
    "Accepted",
    "Alias",
    "Card",
    "Evaluation",
    "Figure",
    "OlderAliasError",
    "OtherModelError",
    "Parent",
    "Quality",
    "Spent",
    "SpentOn",
    "TwoAliasesError",
    "accept_alias",
    "accept_card",
    "accept_promoted",
    "check_model",
    "check_privacy",
    "pack_model",
    "unpack_model",
]
