"""The item table as private training begins with it: the features that were counted, in place of random numbers.

Items that people had near one another are near one another then, before the first gradient. Both what is put there and
what it replaces are public.
"""

from torch import Tensor

from silhouette_shared.errors import UsageError
from silhouette_shared.model.vector import Layout

_TABLE = "item.weight"


def start_items(parameters: Tensor, layout: Layout, features: Tensor, size: float) -> Tensor:
    """The initial model with the first columns of the item table taken from the features, shape (D,).

    An item without features keeps its random row.

    Args:
        parameters: As the plan's seed draws them, shape (D,).
        layout: Of the parameters.
        features: Of the items, shape (V + 1, R); zero where an item has none.
        size: Root mean square of what is put there, in units of the table's own.

    Raises:
        UsageError: If there are more features than columns.
    """
    started = parameters.clone()
    table = layout.split(started)[_TABLE]  # a view
    if features.shape[1] > table.shape[1]:
        raise UsageError(
            f"expected at most {table.shape[1]} features an item, the model's width, to start the item table with, got "
            f"{features.shape[1]}; lower statistics.rank, raise model.width, or set statistics.item_start = 0"
        )
    active = features.any(1)
    if not bool(active.any()):
        return started
    own = features[active].to(table)
    scale = size * table.square().mean().sqrt() / own.square().mean().sqrt()
    rows = table[active]
    rows[:, : features.shape[1]] = own * scale
    table[active] = rows
    return started
