"""Pages that open without a network and without a script, from templates beside the code. No I/O but reading those."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates(package: str) -> Environment:
    """Templates of a package of ours: every value is escaped, and one that is missing is an error.

    Args:
        package: In which the folder `templates` lies.
    """
    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
