"""Logs of long-lived processes: one JSON object a line, in files that are rotated.

A process writes its lines to standard error; the supervisor that started it puts them into a file, and the lines of
programs that know nothing of this into the same form.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

BYTES_A_FILE = 5_000_000
FILES = 5

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST_LINE = 4000


class JsonLines(logging.Formatter):
    """A record as one JSON object; a traceback is one field of it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_to_standard_error(level: int = logging.INFO) -> None:
    """Write this process's log as JSON lines to standard error, and nothing else that comes through `logging`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in ("flwr", "httpx", "httpcore"):  # these tell of every poll, and Flower has a handler of its own
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        logger.setLevel(logging.WARNING)


class LogFile:
    """Lines of one process in a file that is rotated.

    Args:
        path: Of the newest file; its folder exists.
        service: Named in lines that are not JSON yet.
    """

    def __init__(self, path: Path, service: str) -> None:
        self._service = service
        self._handler = RotatingFileHandler(path, maxBytes=BYTES_A_FILE, backupCount=FILES - 1, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(message)s"))

    def write(self, text: str) -> None:
        """Add a line as a process wrote it; an empty one is left out."""
        line = json_line(self._service, text)
        if line:
            self._handler.emit(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close the file."""
        self._handler.close()


def json_line(service: str, text: str, now: datetime | None = None) -> str:
    r"""A process's line as JSON: unchanged if it is an object already, wrapped otherwise, "" if there is nothing in it.

    >>> json_line("gate", '{"message": "hello"}\n')
    '{"message": "hello"}'
    """
    text = _COLOURS.sub("", text).rstrip()[:_LONGEST_LINE]
    if not text:
        return ""
    if text.startswith("{"):
        try:
            json.loads(text)
        except ValueError:
            pass
        else:
            return text
    time = (now or datetime.now(UTC)).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "level": "info", "logger": service, "message": text}, ensure_ascii=False)
