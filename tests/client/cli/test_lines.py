"""A file with one identifier a line is read in one way, and one that cannot be read is said by its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from silhouette_client.cli.lines import lines_of
from silhouette_shared.errors import UsageError


def test_lines_come_without_spaces_and_empty_ones_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "ids").write_text(" a \n\nb\r\n \nä b\n", encoding="utf-8")
    assert lines_of(tmp_path / "ids", "ids") == ["a", "b", "ä b"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_is_missing_or_no_text_is_a_usage_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ids").write_bytes(content)
    with pytest.raises(UsageError, match="ids: expected item ids in UTF-8, one a line; check the path"):
        lines_of(tmp_path / "ids", "item ids")


def test_the_mark_that_spreadsheets_begin_a_file_with_is_no_part_of_the_first_identifier(tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes("\ufeffa\nb\n".encode())
    assert lines_of(tmp_path / "ids", "ids") == ["a", "b"]
