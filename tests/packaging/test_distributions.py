"""What each distribution holds, declares and promises; what is shipped to partners."""

from __future__ import annotations

import email
import importlib.metadata
import io
import re
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import grimp
import pytest
from flwr.cli.build import build_fab_from_disk
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
PARTS = ("shared", "client", "server", "simulations")
PACKAGES = {part: f"silhouette_{part}" for part in PARTS}


def project(folder: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, zipfile.ZipFile]:
    target = tmp_path_factory.mktemp("wheels")
    built = {}
    for part in PARTS:
        builder = WheelBuilder(str(ROOT / part))
        (path,) = builder.build(directory=str(target), versions=["standard"])
        built[part] = zipfile.ZipFile(path)
    return built


@pytest.mark.parametrize("part", PARTS)
def test_a_wheel_holds_its_own_package_and_nothing_else(wheels: dict[str, zipfile.ZipFile], part: str) -> None:
    folders = {name.split("/")[0] for name in wheels[part].namelist()}
    assert folders == {PACKAGES[part], f"silhouette_{part}-0.1.0.dist-info"}


@pytest.mark.parametrize("part", PARTS)
def test_a_wheel_holds_every_file_of_its_package_and_says_it_is_typed(
    wheels: dict[str, zipfile.ZipFile], part: str
) -> None:
    names = set(wheels[part].namelist())
    folder = ROOT / part
    sources = {
        path.relative_to(folder).as_posix()
        for path in (folder / PACKAGES[part]).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= names
    assert f"{PACKAGES[part]}/py.typed" in names


@pytest.mark.parametrize("part", PARTS)
def test_a_wheel_names_the_licence_and_carries_its_text(wheels: dict[str, zipfile.ZipFile], part: str) -> None:
    info = f"silhouette_{part}-0.1.0.dist-info"
    metadata = email.message_from_bytes(wheels[part].read(f"{info}/METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    licence = wheels[part].read(f"{info}/licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()


def test_a_partner_needs_neither_the_server_nor_the_simulations() -> None:
    needed = " ".join(project("client")["dependencies"] + project("shared")["dependencies"])
    assert "silhouette-server" not in needed
    assert "silhouette-simulations" not in needed


@pytest.mark.parametrize("part", PARTS)
def test_a_package_imports_only_what_its_distribution_declares(part: str) -> None:
    graph = grimp.build_graph(PACKAGES[part], include_external_packages=True)
    imported = {
        name.split(".")[0]
        for module in graph.modules
        for name in ([module] if graph.is_module_squashed(module) else [])
    } - {PACKAGES[part], *sys.stdlib_module_names}
    providers = importlib.metadata.packages_distributions()
    declared = {normal(name) for name in project(part)["dependencies"]}
    # An extra is imported only where its absence is handled.
    for extra in project(part).get("optional-dependencies", {}).values():
        declared |= {normal(name) for name in extra}
    undeclared = {name for name in imported if not {normal(dist) for dist in providers.get(name, [name])} & declared}
    assert undeclared == set()


def normal(requirement: str) -> str:
    name = re.match(r"[\w.-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def test_every_requirement_is_pinned_to_a_version_its_distribution_accepts() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = {
        Requirement(line).name: str(Requirement(line).specifier).removeprefix("==")
        for line in lines
        if line and not line.startswith(("#", "./"))
    }
    assert lines.index("torch==2.13.0") < lines.index("./shared")
    for part in PARTS:
        assert f"./{part}" in lines
        for text in project(part)["dependencies"]:
            requirement = Requirement(text)
            if not requirement.name.startswith("silhouette-"):
                assert requirement.specifier.contains(pins[requirement.name]), text


def test_ray_is_the_one_that_flower_pins_wherever_it_is_named() -> None:
    (ours,) = project("simulations")["optional-dependencies"]["ray"]
    flower = importlib.metadata.requires("flwr") or []
    assert any(re.match(rf"{re.escape(ours)}\b", requirement) for requirement in flower)
    assert ours in (ROOT / "tox.ini").read_text()


def test_every_distribution_has_the_same_version_and_asks_for_its_siblings_by_it() -> None:
    for part in PARTS:
        assert project(part)["version"] == project(".")["version"]
        assert importlib.metadata.version(f"silhouette-{part}") == project(part)["version"]
        for text in project(part)["dependencies"]:
            if text.startswith("silhouette-"):
                assert text.endswith(f"=={project(part)['version']}")


def test_the_command_and_its_nouns_are_declared_as_entry_points() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="silhouette")
    assert [point.value for point in scripts] == ["silhouette_shared.cli:main"]
    nouns = importlib.metadata.entry_points(group="silhouette.commands")
    assert {point.name: point.value for point in nouns} == {
        "audit": "silhouette_client.cli:audit",
        "budget": "silhouette_client.cli:budget",
        "coordinator": "silhouette_server.cli:coordinator",
        "data": "silhouette_simulations.cli:data",
        "model": "silhouette_server.cli:model",
        "node": "silhouette_client.cli:node",
        "plan": "silhouette_shared.plan_commands:plan",
        "policy": "silhouette_client.cli:policy",
        "profile": "silhouette_client.cli:profile",
        "recommend": "silhouette_client.cli:recommend",
        "run": "silhouette_server.cli:run",
        "segment": "silhouette_client.cli:segment",
        "sim": "silhouette_simulations.cli:sim",
        "subject": "silhouette_client.cli:subject",
    }


def test_the_bundle_that_flower_ships_contains_no_python() -> None:
    bundle = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT)))
    assert sorted(bundle.namelist()) == [".info/CONTENT", "LICENSE", "pyproject.toml"]


def test_the_bundle_names_the_installed_apps() -> None:
    bundle = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT)))
    config = tomllib.loads(bundle.read("pyproject.toml").decode())
    assert config["tool"]["flwr"]["app"]["components"] == {
        "serverapp": "silhouette_server.app:app",
        "clientapp": "silhouette_client.app:app",
    }
    for reference in config["tool"]["flwr"]["app"]["components"].values():
        assert importlib.metadata.EntryPoint("app", reference, "flwr").load() is not None
