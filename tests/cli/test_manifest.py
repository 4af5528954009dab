from pathlib import Path

import pytest

from interlock.cli.manifest import read_manifest
from interlock.cli.problems import CliError
from interlock.registry.v1 import tool_pb2
from tests.command_line import REPOSITORY

TOOL = '[[tools]]\nname = "t"\nversion = "1.0.0"\n'
AGENT = '[[agents]]\nname = "a"\nversion = "1.0.0"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "interlock.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_is_three_tools_and_an_agent_with_a_plan() -> None:
    manifest = read_manifest(REPOSITORY / "examples" / "csv_analyst" / "interlock.toml")
    assert [tool.name for tool in manifest.tools] == ["csv_profile", "csv_groups", "csv_report"]
    assert all("def run(" in tool.spec.python.source for tool in manifest.tools)
    (agent,) = manifest.agents
    assert [step.tool for step in agent.spec.plan.steps] == [binding.tool for binding in agent.spec.tools]


def test_files_are_read_from_beside_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text("def main(): ...", encoding="utf-8")
    (tmp_path / "in.json").write_text('{"type": "object"}', encoding="utf-8")
    path = written(
        tmp_path,
        TOOL + 'source_file = "tool.py"\nentrypoint = "main"\ninput_schema_file = "in.json"\n'
        'side_effect = "IDEMPOTENT"\nlimits = { timeout = "1.5s" }\n',
    )
    (tool,) = read_manifest(path).tools
    assert tool.spec.python == tool_pb2.PythonTool(source="def main(): ...", entrypoint="main")
    assert tool.spec.input_schema_json == '{"type": "object"}'
    assert tool.spec.side_effect == tool_pb2.SIDE_EFFECT_IDEMPOTENT
    assert tool.spec.limits.timeout.ToMilliseconds() == 1500


def test_an_agent_for_the_sandbox_is_a_source_file_too(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("async def main(context, task): ...", encoding="utf-8")
    path = written(
        tmp_path,
        AGENT + 'source_file = "agent.py"\nentrypoint = "main"\npython.limits = { cpu = "2s" }\n',
    )
    (agent,) = read_manifest(path).agents
    assert agent.spec.python.source == "async def main(context, task): ..."
    assert (agent.spec.python.entrypoint, agent.spec.python.limits.cpu.seconds) == ("main", 2)


def test_bindings_are_names_or_names_with_versions(tmp_path: Path) -> None:
    path = written(tmp_path, AGENT + 'tools = ["t", { tool = "u", version = "2.0.0" }]\n')
    (agent,) = read_manifest(path).agents
    assert [(each.tool, each.version) for each in agent.spec.tools] == [("t", ""), ("u", "2.0.0")]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[[tools]\n", "line 1"),
        ("[[toolz]]\n", "'toolz'"),
        ("[tools]\n", "tools is one table"),
        ('tools = ["t"]\n', "tools[0] is not a table"),
        ('[[tools]]\nname = "t"\n', "tools[0] (t): 'version' is missing"),
        ("[[tools]]\nname = 7\n", "tools[0]: 'name' is missing or not text"),
        (TOOL + "colour = 1\n", 'tools[0] (t): Message type "interlock.registry.v1.ToolSpec" has no field'),
        (TOOL + 'source_file = "gone.py"\n', "gone.py"),
        (TOOL + 'side_effect = "BAD"\n', "SIDE_EFFECT_BAD"),
        (TOOL + "title = 5\n", "title"),
        (TOOL + "input_schema = { default = 2020-01-01 }\n", "input_schema: dates"),
        (TOOL + "[[tools]]\n", "tools[1]: 'name'"),
        (AGENT + "tools = 5\n", "agents[0] (a): "),
        (AGENT + "[agents.plan]\nsteps = [{ key = 1 }]\n", "agents[0] (a): "),
    ],
)
def test_an_error_names_the_place(tmp_path: Path, text: str, place: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(CliError) as caught:
        read_manifest(path)
    assert caught.value.message.startswith(f"{path}")
    assert place in caught.value.message
    assert caught.value.fix


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "interlock.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CliError, match="utf-8"):
        read_manifest(path)
