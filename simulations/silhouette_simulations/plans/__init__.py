"""Plans that come with the package."""

from importlib.resources import files
from pathlib import Path

from silhouette_shared.config import Plan, read_plan


def quick_plan() -> Plan:
    """The plan of `silhouette sim run` without arguments."""
    return read_plan(Path(str(files(__name__) / "quick.toml")))
