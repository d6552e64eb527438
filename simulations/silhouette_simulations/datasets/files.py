"""Reading whole files of a `--from` folder, with errors that say what belongs there."""

import json
from collections.abc import Mapping
from pathlib import Path

from silhouette_shared.errors import UsageError


def read_file(path: Path) -> bytes:
    """Return the content of a file that must be there.

    Raises:
        UsageError: If it is missing or cannot be opened.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise UsageError(
            f"{path}:1: expected a readable file, got: {error.strerror}; "
            "`silhouette data list` names the files that belong into the folder"
        ) from error


def read_texts(path: Path) -> Mapping[str, str]:
    """Return item id -> public text from a JSON file, or nothing if there is no such file.

    Raises:
        UsageError: If the file is there but is not one JSON object of texts.
    """
    if not path.exists():
        return {}
    try:
        texts = json.loads(read_file(path).decode())
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: expected JSON, got: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}:1: expected UTF-8 text, got: {error}") from error
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise UsageError(f"{path}:1: expected one JSON object of item id to text")
    return {item: " ".join(text.split()) for item, text in texts.items()}
