"""Results as tables on the terminal: the table is the data, so it goes to standard output."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDTH_IN_A_FILE = 120


def print_result(result: Mapping[str, Any]) -> None:
    """The rows, the privacy and where the report lies."""
    screen = Console()
    if not screen.is_terminal:
        screen.width = max(screen.width, _WIDTH_IN_A_FILE)
    screen.print(_rows(result))
    screen.print(_privacy(result["privacy"]), highlight=False, soft_wrap=True)
    if result["note"]:
        screen.print(result["note"], style="dim", highlight=False, markup=False, soft_wrap=True)
    screen.print(f"{result['seconds']:.0f} s", highlight=False)
    screen.print(f"report: {result['report']}", highlight=False, soft_wrap=True)


def _rows(result: Mapping[str, Any]) -> Table:
    table = Table(title=f"{result['name']}, seed {result['seed']}", title_justify="left", box=None)
    table.add_column("row", no_wrap=True)
    for column in ("HR@10", "NDCG@10", "95 % interval", "worst", "gap"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in result["rows"]:
        table.add_row(
            row["label"],
            f"{row['hr_at_10']:.3f}",
            f"{row['ndcg_at_10']:.4f}",
            f"{row['ndcg_low']:.3f} to {row['ndcg_high']:.3f}",
            f"{row['worst_partner_ndcg']:.3f}",
            f"{row['gap']:.3f}",
        )
    return table


def _privacy(privacy: Mapping[str, Any]) -> str:
    if privacy["mode"] == "none":
        return f"privacy: none. {privacy['warning']}"
    lines = [
        f"privacy: epsilon {privacy['epsilon']:.2f} at delta {privacy['delta']:g} for every partner "
        f"({privacy['accountant']}; {privacy['accountants']['rdp']:.2f} by rdp), "
        f"mode {privacy['mode']}, unit {privacy['unit']}",
    ]
    lines += [
        f"{name}: one release, noise multiplier {part['noise_multiplier']:.3f}"
        for name, part in (privacy.get("statistics") or {}).items()
        if part is not None
    ]
    if privacy["steps"]:
        lines.append(
            f"training: noise multiplier {privacy['noise_multiplier']:.3f}, clip {privacy['clip_norm']:g}, "
            f"sampling rate {privacy['sampling_rate']:g}, {privacy['steps']} steps"
        )
    lines.append(privacy["warning"])
    return "\n".join(lines)
