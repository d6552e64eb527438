"""What every run on the command line needs: the invented data in a cache, and one run to compare with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.desk import Desk, Reference, write_films

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Try a failing test here a second time: real processes and real clocks on a machine that others share.

    What fails twice is a fault. Nothing outside this folder is tried again.
    """
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose cache holds the invented films."""
    home = tmp_path_factory.mktemp("films") / "home"
    source = write_films(home.parent / "source")
    desk = Desk(home, home.parent / "runs", home.parent)
    done = desk.call("data", "get", "ml-1m", "--from", source)
    assert done.code == 0, done.err
    return home


@pytest.fixture
def desk(data_home: Path, tmp_path: Path) -> Desk:
    """A desk whose runs are the test's own."""
    return Desk(data_home, tmp_path / "runs", tmp_path)


@pytest.fixture(scope="session")
def reference(data_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Made once; tests read it and change nothing."""
    place = tmp_path_factory.mktemp("reference")
    desk = Desk(data_home, place / "runs", place)
    done = desk.run(desk.plan())
    assert done.code == 0, done.err
    return Reference(desk, done, Path(done.document["folder"]))
