"""Where SQL may stand inside a service: a rule about names of files, which import rules cannot state."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.tree import ROOT, packages

SERVICES = sorted(name for name in packages() if name.endswith("_svc"))
STORES = re.compile(r"(^|/)(store/\w+|\w*_?store|tables|\w+_rows|migrations/.+)\.py$")
# A transaction or a condition is handed through the noun to the stores that use it.
HANDLE = {"AsyncConnection", "ColumnElement"}


def sql_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "sqlalchemy"}
    return names


@pytest.mark.parametrize("service", SERVICES)
def test_only_stores_and_tables_speak_sql(service: str) -> None:
    elsewhere = {
        str(path.relative_to(ROOT)): sorted(names)
        for path in sorted((ROOT / service).rglob("*.py"))
        if not STORES.search(path.relative_to(ROOT / service).as_posix())
        and (names := sql_names(path) - HANDLE)
    }
    assert elsewhere == {}


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "worker_svc"])
def test_every_service_has_the_same_doors_for_its_reader(service: str) -> None:
    expected = {"__main__.py", "config.py", "convert.py", "errors.py", "server.py", "tables.py"}
    present = {path.name for path in (ROOT / service).iterdir()}
    assert expected - present == set()
    assert any(name.endswith("servicer.py") or name == "servicers" for name in present)
    assert any(name == "store" or name.endswith("store.py") for name in present)
    assert (ROOT / service / "migrations/versions").is_dir()
