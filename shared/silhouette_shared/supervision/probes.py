"""Whether a process answers on loopback."""

import ssl
import urllib.error
import urllib.request
from pathlib import Path

_SECONDS = 3.0


def answers(address: str, certificate: Path | None = None) -> bool:
    """Whether `GET address` gives 200 in time.

    Args:
        address: Of our own on loopback, http or https.
        certificate: The one that the server must show; None for http.
    """
    try:
        context = None if certificate is None else ssl.create_default_context(cafile=str(certificate))
        with urllib.request.urlopen(address, timeout=_SECONDS, context=context) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False
