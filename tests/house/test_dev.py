"""`./dev` on machines that lack something, and on one that lacks nothing."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT

# What ./dev may take from a bare machine, besides a Python.
BARE_TOOLS = ("sh", "dirname", "cat", "cmp", "head", "tail", "df", "awk", "rm", "mv", "ls")


class Machine:
    """A copy of the house and a PATH that holds only what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "house"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.root.mkdir()
        for name in ("dev", "pyproject.toml"):
            shutil.copy2(ROOT / name, self.root)
        shutil.copytree(ROOT / "requirements", self.root / "requirements")
        for tool in BARE_TOOLS:
            found = shutil.which(tool)
            assert found is not None, f"{tool} is not on this machine"
            (self.bin / tool).symlink_to(found)

    def program(self, name: str, script: str) -> None:
        """Put a shell script on PATH, in place of what stands there."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def python(self, name: str, version: str, *, can_make_venv: bool = True) -> None:
        """Put something on PATH that answers the questions of ./dev as that Python would."""
        major, minor, _ = (int(part) for part in version.split("."))
        old = (major, minor) < (3, 11)
        self.program(
            name,
            f"""
            case "$*" in
                *print*) echo {version} ;;
                *version_info*) exit {int(old)} ;;
                *ensurepip*) exit {int(not can_make_venv)} ;;
                *fcntl*) exit 0 ;;
                *) echo "unexpected: $*" >&2; exit 99 ;;
            esac""",
        )

    def pretend_ready(self) -> None:
        """Lay out a .venv as a finished set-up leaves it."""
        made_from = [
            self.root / "pyproject.toml",
            *(self.root / f"requirements/{n}.txt" for n in ("dev", "build")),
        ]
        (self.root / ".venv/bin").mkdir(parents=True)
        (self.root / ".venv/bin/python").symlink_to(sys.executable)
        text = f"{self.root}\n" + "".join(path.read_text("utf-8") for path in made_from)
        (self.root / ".venv/interlock-dev.stamp").write_text(text, encoding="utf-8")

    def dev(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run ./dev there, with nothing in its environment but that PATH."""
        return subprocess.run(
            [self.root / "dev", *arguments],
            env={"PATH": str(self.bin)},
            cwd=cwd,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_help_lists_every_command_that_dev_understands(machine: Machine) -> None:
    listed = set(re.findall(r"^  ([a-z]+)", machine.dev("help").stdout, re.MULTILINE))
    script = (ROOT / "dev").read_text("utf-8")
    cases = script[script.index("case $command in") :]
    understood = {
        name for label in re.findall(r"^([a-z |-]+)\)$", cases, re.MULTILINE) for name in label.split(" | ")
    }
    assert understood - {"-h", "--help"} == listed
    assert {"demo", "up", "test", "check", "protos", "bench", "help"} <= listed


def test_help_needs_nothing_at_all(machine: Machine) -> None:
    assert machine.dev().stdout == machine.dev("--help").stdout != ""


def test_an_unknown_command_is_named_and_exits_with_2(machine: Machine) -> None:
    done = machine.dev("tset")
    assert done.returncode == 2
    assert done.stderr == "./dev: no such command: tset; './dev help' lists them\n"


def test_an_old_python_is_refused_by_version_and_path(machine: Machine) -> None:
    machine.python("python3", "3.9.18")
    done = machine.dev("setup")
    assert done.returncode == 1
    assert done.stderr == (
        f"./dev: Python 3.11 or newer is needed; found 3.9.18 ({machine.bin}/python3). "
        "Install one, or set INTERLOCK_PYTHON to its path\n"
    )


def test_no_python_at_all_is_said(machine: Machine) -> None:
    assert "found none" in machine.dev("setup").stderr


def test_a_python_name_that_does_not_run_is_passed_over(machine: Machine) -> None:
    machine.program("python3.13", 'echo "python3.13: command not found" >&2; exit 127')
    machine.python("python3", "3.10.2")
    assert f"found 3.10.2 ({machine.bin}/python3)." in machine.dev("setup").stderr


def test_a_python_that_cannot_make_environments_gets_the_remedy(machine: Machine) -> None:
    machine.python("python3", "3.11.2", can_make_venv=False)
    done = machine.dev("setup")
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr.splitlines()[-1]


def test_a_full_disk_is_said_before_anything_is_installed(machine: Machine) -> None:
    machine.python("python3", "3.12.1")
    machine.program("df", 'echo "Filesystem 1024-blocks Used Available"; echo "disk 9 9 20480 /"')
    done = machine.dev("setup")
    assert done.returncode == 1
    assert "not enough disk space: 20 MB free" in done.stderr
    assert not (machine.root / ".venv").exists()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("error sending request for url (somewhere)", "the package index cannot be reached"),
        ("OSError: [Errno 28] No space left on device", "no disk space left"),
        ("invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
    ],
)
def test_why_an_installation_failed_is_one_line(machine: Machine, said: str, reason: str) -> None:
    machine.python("python3", "3.12.1")
    machine.program("uv", f'[ "$1" = --version ] || {{ echo "{said}" >&2; exit 1; }}')
    done = machine.dev("setup")
    assert done.returncode == 1
    assert reason in done.stderr.splitlines()[-1]
    assert said not in done.stderr


def test_a_folder_named_venv_that_is_none_is_left_alone(machine: Machine) -> None:
    machine.python("python3", "3.12.1")
    machine.program("uv", "exit 0")
    (machine.root / ".venv").mkdir()
    (machine.root / ".venv/precious").touch()
    assert "is not a virtual environment; move it away" in machine.dev("setup").stderr
    assert (machine.root / ".venv/precious").exists()


def test_a_second_run_does_nothing_but_what_it_is_asked(machine: Machine, tmp_path: Path) -> None:
    machine.pretend_ready()
    done = machine.dev("run", "sh", "-c", "echo hello", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")


@pytest.mark.parametrize("changed", ["pyproject.toml", "requirements/dev.txt", "requirements/build.txt"])
def test_a_change_of_the_lock_or_the_project_sets_up_again(machine: Machine, changed: str) -> None:
    machine.pretend_ready()
    with (machine.root / changed).open("a", encoding="utf-8") as file:
        file.write("\n")
    # There is no Python on this PATH, so that trying is as far as it gets.
    assert "Python 3.11 or newer is needed" in machine.dev("run", "true").stderr


def test_commands_that_follow_see_the_callers_folder(machine: Machine, tmp_path: Path) -> None:
    machine.pretend_ready()
    done = machine.dev("run", "python", "-c", "import os; print(os.getcwd())", cwd=tmp_path)
    assert done.stdout.strip() == str(tmp_path)


def test_a_closed_standard_input_is_as_good_as_an_empty_one(machine: Machine) -> None:
    machine.pretend_ready()
    line = f"exec {machine.root}/dev run python -c 'import sys; print(repr(sys.stdin.read()))' <&-"
    done = subprocess.run(
        ["sh", "-c", line], env={"PATH": str(machine.bin)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "''\n"
