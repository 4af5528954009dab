"""Agents and tools by the command line."""

from pathlib import Path

from tests.demo.conftest import WORKBENCH
from tests.suite_running import Suite


def test_agents_and_tools_are_listed_with_what_they_can(suite: Suite) -> None:
    agents = {agent["name"]: agent for agent in suite.json("agents", "list")}
    assert agents["bench-echo"]["capabilities"] == ["bench.echo"]
    tools = {tool["name"]: tool for tool in suite.json("tools", "list", "--filter", 'status = "ACTIVE"')}
    assert tools["bench_slow"]["latest_version"] == "1.0.0"
    lines = suite.cli("agents", "list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "VERSION", "STATUS", "CAPABILITIES"]
    assert ["bench-echo", "1.0.0", "active", "bench.echo"] in [line.split() for line in lines]


def test_a_version_is_shown_with_its_locked_tools_and_schemas_as_json(suite: Suite) -> None:
    shown = suite.json("agents", "get", "bench-echo")
    binding = shown["spec"]["tools"][0]
    assert (binding["tool"], binding["version"]) == ("bench_echo", "1.0.0")
    assert binding["digest"] == suite.json("tools", "get", "bench_echo")["digest"]
    assert shown["spec"]["input_schema"]["required"] == ["text"]
    assert suite.error("agents", "get", "bench-echo", "--version", "9.9.9")["reason"] == (
        "AGENT_VERSION_NOT_FOUND"
    )
    error = suite.error("tools", "get", "nothing")
    assert error["reason"] == "TOOL_NOT_FOUND" and "interlock tools list" in error["fix"]


def test_agents_are_found_by_capability_with_reasons(suite: Suite) -> None:
    found = suite.json("agents", "find", "bench.slow", "--tool", "bench_slow", "--rejected")
    assert [candidate["agent"] for candidate in found["candidates"]] == ["bench-slow"]
    assert found["candidates"][0]["reasons"]
    assert "bench-echo" in {each["agent"] for each in found["rejected"]}
    assert "0." in suite.cli("agents", "find", "bench").stdout
    assert suite.cli("agents", "find", "nobody.can").stdout.startswith("No agent can do that.")


def test_publishing_again_changes_nothing(suite: Suite) -> None:
    first = suite.json("agents", "publish", str(WORKBENCH))
    assert suite.json("agents", "publish", str(WORKBENCH)) == first
    assert suite.json("tools", "publish", str(WORKBENCH)) == [e for e in first if e["kind"] == "tool"]
    assert [(each["kind"], each["name"]) for each in first[:1]] == [("tool", "bench_echo")]


def test_other_content_under_a_published_version_is_refused(suite: Suite, tmp_path: Path) -> None:
    changed = tmp_path / "changed.toml"
    changed.write_text(WORKBENCH.read_text().replace('return {"echo": text}', 'return {"echo": text * 2}'))
    error = suite.error("tools", "publish", str(changed))
    assert error["reason"] == "VERSION_EXISTS"
    assert "higher version" in error["fix"]


def test_a_dry_run_says_everything_that_is_wrong_and_stores_nothing(suite: Suite, tmp_path: Path) -> None:
    manifest = tmp_path / "bad.toml"
    manifest.write_text(
        '[[tools]]\nname = "bench_echo"\nversion = "2.0.0"\n'
        'input_schema = { type = "object" }\nlimits = { timeout = "9000s" }\n'
        '[tools.python]\nsource = "x ="\n'
    )
    error = suite.error("tools", "publish", str(manifest), "--dry-run")
    fields = {violation["field"] for violation in error["violations"]}
    assert fields == {"spec.python.source", "spec.limits.timeout"}
    good = tmp_path / "good.toml"
    good.write_text(WORKBENCH.read_text().replace('version = "1.0.0"', 'version = "7.0.0"'))
    suite.json("tools", "publish", str(good), "--dry-run")
    assert suite.json("tools", "get", "bench_echo")["version"] == "1.0.0"
