"""What `./dev lock` writes: installable anywhere, by uv and by pip, and tied to no machine and no index."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.house.tree import REQUIREMENTS, project

LOCK_FILES = sorted(path.name for path in REQUIREMENTS.glob("*.txt"))
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ;]+)", re.MULTILINE)


def pins(name: str) -> dict[str, Version]:
    return {
        pin["name"]: Version(pin["version"]) for pin in PIN.finditer((REQUIREMENTS / name).read_text("utf-8"))
    }


def demands(*extras: str) -> list[Requirement]:
    table = project()["project"]
    lines = table["dependencies"] + [line for e in extras for line in table["optional-dependencies"][e]]
    return [Requirement(line) for line in lines]


def test_there_is_one_file_for_each_purpose() -> None:
    assert LOCK_FILES == ["build.txt", "dev.txt", "model.txt", "runtime.txt", "uv.txt"]


@pytest.mark.parametrize("name", LOCK_FILES)
def test_no_lock_file_names_an_address_an_index_or_a_path(name: str) -> None:
    text = (REQUIREMENTS / name).read_text("utf-8")
    assert "://" not in text
    assert not re.search(r"--(extra-)?index|--find-links|@ |\.(org|com)\b", text)
    assert not re.search(r"(^|\s)/", text, re.MULTILINE)


@pytest.mark.parametrize("name", LOCK_FILES)
def test_every_pin_carries_hashes(name: str) -> None:
    text = (REQUIREMENTS / name).read_text("utf-8")
    entries = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert len(entries) == len(pins(name)) > 0
    for entry in entries:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


@pytest.mark.parametrize("name", ["build.txt", "runtime.txt", "uv.txt"])
def test_no_two_lock_files_disagree(name: str) -> None:
    all_pins = pins("dev.txt")
    assert {package: all_pins.get(package) for package in pins(name)} == pins(name)


@pytest.mark.parametrize(("name", "extras"), [("runtime.txt", ("suite",)), ("dev.txt", ("suite", "dev"))])
def test_every_dependency_of_the_project_is_pinned_within_its_bounds(
    name: str, extras: tuple[str, ...]
) -> None:
    pinned = pins(name)
    for demand in demands(*extras):
        version = pinned.get(re.sub(r"[-_.]+", "-", demand.name).lower())
        assert version is not None, f"{demand.name} is not in {name}: run ./dev lock"
        assert demand.specifier.contains(version), f"{demand.name} {version} breaks {demand.specifier}"
