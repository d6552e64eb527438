"""Which code this is: a digest of each package's sources, as they lie on this machine."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from silhouette_shared.errors import IntegrityError
from silhouette_shared.privacy.audit.result import Subject

PACKAGES = ("silhouette_client", "silhouette_shared")
"""What a partner installs, and all that touches a person's record."""


def code_digests() -> dict[str, str]:
    """SHA-256, in hex, of the names and contents of each package's Python files."""
    return {package: _digest(_folder(package)) for package in PACKAGES}


def require_audited(subject: Subject, *, place: Path, plan_digest: str | None, other_code: bool = False) -> None:
    """Make sure that an audit is about this plan and the code that is installed here.

    Args:
        subject: What was audited.
        place: Of the result, for messages.
        plan_digest: Of the plan that it has to be about; None takes any.
        other_code: Take an audit of other code as well.

    Raises:
        IntegrityError: If it is about another plan or other code.
    """
    if plan_digest is not None and plan_digest != subject.plan_digest:
        raise IntegrityError(
            f"{place}: expected an audit of plan {plan_digest[:12]}, got one of {subject.plan_digest[:12]}; "
            "audit this plan"
        )
    for package, digest in ({} if other_code else code_digests()).items():
        if subject.code.get(package) != digest:
            raise IntegrityError(
                f"{place}: expected an audit of the {package} installed here ({digest[:12]}), got one of "
                f"{subject.code.get(package, 'none')[:12]}; audit again"
            )


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"expected {package} to be installed, found nothing", name=package)
    return Path(spec.origin).parent


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        name, content = path.relative_to(folder).as_posix().encode(), path.read_bytes()
        for part in (name, content):  # framed, so that no two trees give the same bytes
            total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()
