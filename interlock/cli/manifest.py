"""Manifests: a TOML file that describes tools and agents, ready to be published.

[[tools]]
name = "csv_profile"
version = "1.0.0"
source_file = "csv_profile.py"      # beside the manifest
input_schema = { type = "object" }  # or input_schema_file
…every other field of the contract's ToolSpec

[[agents]]
name = "csv-analyst"
version = "1.0.0"
…every field of AgentSpec; tools may be plain names
"""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from interlock.cli.problems import CliError
from interlock.registry.v1 import agent_pb2, tool_pb2

Spec = TypeVar("Spec", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEntry:
    """One tool to publish."""

    name: str
    version: str
    spec: tool_pb2.ToolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEntry:
    """One agent to publish."""

    name: str
    version: str
    spec: agent_pb2.AgentSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What one file describes."""

    tools: tuple[ToolEntry, ...]
    agents: tuple[AgentEntry, ...]


def read_manifest(path: Path) -> Manifest:
    """Parse a manifest and the files it names. Raises CliError that names the place."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CliError(f"{path}: {error}") from None
    unknown = sorted(set(document) - {"tools", "agents"})
    if unknown:
        raise CliError(f"{path}: {unknown[0]!r} is neither tools nor agents.")
    tools = [_tool(entry, path, index) for index, entry in enumerate(document.get("tools", []))]
    agents = [_agent(entry, path, index) for index, entry in enumerate(document.get("agents", []))]
    return Manifest(tools=tuple(tools), agents=tuple(agents))


def _tool(entry: dict[str, Any], path: Path, index: int) -> ToolEntry:
    where = f"{path}: tools[{index}]"
    name, version, spec = _named(entry, where)
    if "source_file" in spec:
        spec.setdefault("python", {})["source"] = _file(path, spec.pop("source_file"), where)
    _schemas(spec, path, where)
    for field in ("side_effect",):
        if field in spec:
            spec[field] = f"SIDE_EFFECT_{spec[field]}"
    return ToolEntry(name=name, version=version, spec=_parse(spec, tool_pb2.ToolSpec(), where))


def _agent(entry: dict[str, Any], path: Path, index: int) -> AgentEntry:
    where = f"{path}: agents[{index}]"
    name, version, spec = _named(entry, where)
    spec["tools"] = [{"tool": each} if isinstance(each, str) else each for each in spec.get("tools", [])]
    _schemas(spec, path, where)
    return AgentEntry(name=name, version=version, spec=_parse(spec, agent_pb2.AgentSpec(), where))


def _named(entry: dict[str, Any], where: str) -> tuple[str, str, dict[str, Any]]:
    spec = dict(entry)
    try:
        return str(spec.pop("name")), str(spec.pop("version")), spec
    except KeyError as missing:
        raise CliError(f"{where}: {missing.args[0]!r} is missing.") from None


def _schemas(spec: dict[str, Any], path: Path, where: str) -> None:
    for name in ("input_schema", "output_schema"):
        if f"{name}_file" in spec:
            spec[f"{name}_json"] = _file(path, spec.pop(f"{name}_file"), where)
        elif name in spec:
            spec[f"{name}_json"] = json.dumps(spec.pop(name))


def _file(manifest: Path, name: object, where: str) -> str:
    path = manifest.parent / str(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{where}: {error}") from None


def _parse(spec: dict[str, Any], into: Spec, where: str) -> Spec:
    try:
        return json_format.ParseDict(spec, into)
    except json_format.ParseError as error:
        raise CliError(f"{where}: {error}") from None
