"""Manifests: a TOML file that describes tools and agents, ready to be published.

[[tools]]
name = "csv_profile"
version = "1.0.0"
source_file = "csv_profile.py"      # beside the manifest; `entrypoint` if its function is not `run`
#profile = "data"                   # packages beside the standard library
input_schema = { type = "object" }  # or input_schema_file = "…"
side_effect = "PURE"                # or IDEMPOTENT, AT_MOST_ONCE
…every other field of the contract's ToolSpec

[[agents]]
name = "csv-analyst"
version = "1.0.0"
tools = ["csv_profile"]             # or { tool = "csv_profile", version = "1.0.0" }
source_file = "csv_analyst.py"      # for a Python agent in the sandbox; or plan = … or python.entry_point
…every other field of the contract's AgentSpec
"""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from interlock.cli.problems import CliError
from interlock.registry.v1 import agent_pb2, tool_pb2

Spec = TypeVar("Spec", bound=Message)

_FIX = (
    "Fields are those of the contract: see protos/interlock/registry/v1, and examples/ for whole manifests."
)


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
        raise CliError(f"{path}: {error}", "A manifest is a TOML file.") from None
    unknown = sorted(set(document) - {"tools", "agents"})
    if unknown:
        raise CliError(f"{path}: {unknown[0]!r} is neither [[tools]] nor [[agents]].", _FIX)
    folder = path.parent
    return Manifest(
        tools=tuple(_tool(entry, folder, where) for entry, where in _entries(document, "tools", path)),
        agents=tuple(_agent(entry, folder, where) for entry, where in _entries(document, "agents", path)),
    )


def _entries(document: dict[str, Any], kind: str, path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Each entry, and where it stands, in words."""
    entries = document.get(kind, [])
    if not isinstance(entries, list):
        raise CliError(f"{path}: {kind} is one table.", f"Spell it [[{kind}]]: there may be several.")
    for index, entry in enumerate(entries):
        where = f"{path}: {kind}[{index}]"
        if not isinstance(entry, dict):
            raise CliError(f"{where} is not a table.", _FIX)
        name = entry.get("name")
        yield entry, f"{where} ({name})" if isinstance(name, str) else where


def _tool(entry: dict[str, Any], folder: Path, where: str) -> ToolEntry:
    name, version, spec = _named(entry, where)
    _source(spec, folder, where)
    _schemas(spec, folder, where)
    if "side_effect" in spec:
        spec["side_effect"] = f"SIDE_EFFECT_{spec['side_effect']}"
    return ToolEntry(name=name, version=version, spec=_parse(spec, tool_pb2.ToolSpec(), where))


def _agent(entry: dict[str, Any], folder: Path, where: str) -> AgentEntry:
    name, version, spec = _named(entry, where)
    bindings = spec.get("tools", [])
    if isinstance(bindings, list):
        spec["tools"] = [{"tool": each} if isinstance(each, str) else each for each in bindings]
    _source(spec, folder, where)
    _schemas(spec, folder, where)
    return AgentEntry(name=name, version=version, spec=_parse(spec, agent_pb2.AgentSpec(), where))


def _named(entry: dict[str, Any], where: str) -> tuple[str, str, dict[str, Any]]:
    spec = dict(entry)
    named = []
    for key in ("name", "version"):
        value = spec.pop(key, None)
        if not isinstance(value, str) or not value:
            raise CliError(f"{where}: {key!r} is missing or not text.", _FIX)
        named.append(value)
    return named[0], named[1], spec


def _source(spec: dict[str, Any], folder: Path, where: str) -> None:
    python = {}
    if "source_file" in spec:
        python["source"] = _file(folder, spec.pop("source_file"), where)
    for name in ("entrypoint", "profile"):
        if name in spec:
            python[name] = spec.pop(name)
    if python:
        spec["python"] = {**spec.get("python", {}), **python}


def _schemas(spec: dict[str, Any], folder: Path, where: str) -> None:
    for name in ("input_schema", "output_schema"):
        if f"{name}_file" in spec:
            spec[f"{name}_json"] = _file(folder, spec.pop(f"{name}_file"), where)
        elif name in spec:
            spec[f"{name}_json"] = _json(spec.pop(name), f"{where}, {name}")


def _json(schema: object, where: str) -> str:
    try:
        return json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError):
        raise CliError(f"{where}: dates, times, inf and nan are not JSON.", "Spell them as text.") from None


def _file(folder: Path, name: object, where: str) -> str:
    path = folder / str(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{where}: {error}", "Files are named from where the manifest stands.") from None


def _parse(spec: dict[str, Any], into: Spec, where: str) -> Spec:
    try:
        return json_format.ParseDict(spec, into)
    except json_format.ParseError as error:
        raise CliError(f"{where}: {error}", _FIX) from None
