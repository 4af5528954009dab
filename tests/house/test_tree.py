"""What may stand in a file of this repository."""

import re

from tests.house.tree import ROOT, packages, project, tracked_files

# Put together here, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile(rb"(?<![\w.}-])/(?:" + b"|".join([b"wo" + b"rk", b"ro" + b"ot"]) + rb")/[\w.]")
INDEX_HOSTS = re.compile(b"|".join([b"pypi" + rb"\.org", b"python" + b"hosted", b"npm" + rb"js\.org"]))
UNFINISHED = re.compile(b"|".join(rb"\b" + word + rb"\b" for word in (b"TO" + b"DO", b"FIX" + b"ME")))


def offenders(pattern: re.Pattern[bytes]) -> list[str]:
    found = []
    for name in tracked_files():
        for number, line in enumerate((ROOT / name).read_bytes().splitlines(), start=1):
            if pattern.search(line):
                found.append(f"{name}:{number}")
    return found


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    assert offenders(MACHINE_PATHS) == []


def test_no_file_names_the_host_of_a_package_index() -> None:
    assert offenders(INDEX_HOSTS) == []


def test_no_file_says_that_it_is_unfinished() -> None:
    assert offenders(UNFINISHED) == []


def test_the_lock_of_one_tool_alone_is_not_kept() -> None:
    assert not (ROOT / "uv.lock").exists()


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {name.parent for name in tracked_files() if name.parts[0] == "tests" and name.suffix == ".py"}
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []


def test_every_package_in_the_tree_ships_is_typed_and_is_known_to_the_import_rules() -> None:
    present = {
        name.parts[0] for name in tracked_files() if len(name.parts) > 1 and name.name == "__init__.py"
    }
    present -= {"tests", "tools", "benchmarks"}
    tools = project()["tool"]
    assert present <= set(packages())
    assert set(packages()) <= set(tools["mypy"]["files"])
    assert set(packages()) == set(tools["importlinter"]["root_packages"])


def test_every_package_is_bound_by_an_import_rule() -> None:
    bound = {
        module.split(".")[0]
        for contract in project()["tool"]["importlinter"]["contracts"]
        for key in ("source_modules", "modules", "containers")
        for module in contract.get(key, ())
    }
    # The suite starts all others, so it alone may import everything.
    assert set(packages()) - bound == {"interlock_suite"}


def test_every_lint_exception_gives_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    start = lines.index("ignore = [")
    block = lines[start + 1 : lines.index("]", start)]
    assert block[0].lstrip().startswith("#")
    assert [line for line in block if not re.fullmatch(r'\s+("[A-Z]+\d*",|# .+)', line)] == []
