import json
import subprocess
import sys
from pathlib import Path

import pytest

from interlock_sandbox.command_line import main

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "interlock_sandbox", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    file = tmp_path / "greet.py"
    file.write_text(
        "def run(name, times=1):\n"
        "    print('\\x1b[2Jsaid')\n"
        "    if times < 0:\n        raise ValueError(name)\n"
        "    return [name] * times\n"
    )
    return file


def test_a_tool_is_run_with_its_arguments(tool: Path) -> None:
    done = run("run", str(tool), "-i", "name=Ada", "-i", "times=2")
    assert (done.returncode, json.loads(done.stdout)) == (0, ["Ada", "Ada"])
    assert "COMPLETED at level" in done.stderr
    assert "\x1b" not in done.stderr
    assert "\\x1b[2Jsaid" in done.stderr


def test_a_failing_tool_shows_its_own_traceback(tool: Path) -> None:
    done = run("run", str(tool), "-i", "name=Ada", "-i", "times=-1")
    assert (done.returncode, done.stdout) == (1, "")
    assert 'File "greet.py", line 4, in run' in done.stderr


@pytest.mark.parametrize("arguments", [["run", "/nowhere/tool.py"], ["run", __file__, "-i", "novalue"]])
def test_a_wrong_command_says_what_is_wrong(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "error: " in capsys.readouterr().err


def test_the_probe_speaks_to_people_and_to_machines() -> None:
    told = run("probe")
    data = json.loads(run("probe", "--json").stdout)
    assert f"isolation level {data['level']}" in told.stdout
    assert told.returncode == (0 if data["level"] in ("STANDARD", "FULL") else 69)
    assert {layer["layer"] for layer in data["layers"]} >= {"namespaces", "seccomp", "landlock"}
