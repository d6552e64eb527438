"""Why a model is not taken, as types."""

from __future__ import annotations

from silhouette_shared.errors import IntegrityError, RefusedError


class OtherModelError(IntegrityError):
    """The bytes of a model are not those that its card names, or the card is not the one that an alias names."""


class OlderAliasError(RefusedError):
    """An alias that was replaced since: somebody shows a model that is promoted no more."""


class TwoAliasesError(IntegrityError):
    """Two different aliases bear the same number: the coordinator shows people different things."""
