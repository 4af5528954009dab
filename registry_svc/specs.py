"""What the spec of a tool or an agent may hold. Pure: specs are JSON with the contract's field names."""

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jmespath

from interlock.common.time_limits import TOOL_SECONDS
from registry_svc.capabilities import is_capability

TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
AGENT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_STEP_KEY = re.compile(r"[a-z0-9_]{1,64}")
_ENTRY_POINT = re.compile(r"[A-Za-z0-9_.-]{1,128}")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|\{[A-Za-z_][A-Za-z0-9_]*\})*)*")
MAX_PATH = 1024

MAX_TITLE = 128
MAX_DESCRIPTION = 4096
MAX_SOURCE_BYTES = 262_144
MAX_CAPABILITIES = 32
MAX_BINDINGS = 128
MAX_AGENTS = 32
MAX_STEPS = 100
MAX_EXPRESSION = 2048
MAX_MEMORY_BYTES = 2 * 1024**3
MIN_MEMORY_BYTES = 32 * 1024**2
MAX_RESULT_BYTES = 262_144
MAX_ATTEMPT_SECONDS = 24 * 3600.0
MAX_FAILURES = 100
MAX_COEFFICIENT = 100
MAX_CLASSES = 64
MAX_CLASS = 128
MAX_INSTRUCTIONS = 32_768
MAX_MODEL = 128
MAX_MODEL_CALLS = 200
MAX_TEMPERATURE = 2

# (field, what is wrong and what would be right)
MAX_CONNECTIONS = 16
_CONNECTION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

Flaw = tuple[str, str]


def tool_flaws(spec: Mapping[str, Any]) -> Iterator[Flaw]:
    """Everything wrong with a tool's spec, but for its schemas."""
    yield from _description(spec)
    if len(spec.get("title", "")) > MAX_TITLE:
        yield "spec.title", f"at most {MAX_TITLE} characters"
    if "http" in spec:
        yield from _http_tool(spec["http"])
    elif "python" in spec:
        yield from _source(spec["python"], ast.FunctionDef, "function")
        profile = spec["python"].get("profile", "")
        if profile and not _CONNECTION.fullmatch(profile):
            yield (
                "spec.python.profile",
                "must be the name of a runtime profile: lower-case letters, digits and '-'",
            )
    else:
        yield "spec.python", "an implementation is required: python or http"
    yield from _connections(spec.get("connections", []))
    yield from _limits(spec.get("limits", {}))


def agent_flaws(spec: Mapping[str, Any]) -> Iterator[Flaw]:
    """Everything wrong with an agent's spec, but for its schemas and whether its tools exist."""
    yield from _description(spec)
    yield from _capabilities(spec.get("capabilities", []))
    names = [binding.get("tool", "") for binding in spec.get("tools", [])]
    yield from _bindings("spec.tools", names, TOOL_NAME, "tool", MAX_BINDINGS)
    if "plan" in spec:
        yield from _plan(spec["plan"], set(names))
    elif "python" in spec:
        yield from _python_agent(spec["python"])
    elif "llm" in spec:
        yield from _llm(spec["llm"])
    else:
        yield "spec.plan", "a runtime is required: plan, python or llm"
    yield from _retry(spec.get("retry", {}))
    yield from _duration(
        spec, "start_to_close_timeout", "spec.start_to_close_timeout", 0.1, MAX_ATTEMPT_SECONDS
    )


def _bindings(where: str, names: list[str], pattern: re.Pattern[str], what: str, most: int) -> Iterator[Flaw]:
    if len(names) > most:
        yield where, f"at most {most} bindings"
    for index, name in enumerate(names):
        if not pattern.fullmatch(name):
            yield (
                f"{where}[{index}].{what}",
                f"must be the name of {'an' if what[0] in 'aeiou' else 'a'} {what}",
            )
        elif name in names[:index]:
            yield f"{where}[{index}].{what}", f"{name!r} is bound twice"


def _description(spec: Mapping[str, Any]) -> Iterator[Flaw]:
    if len(spec.get("description", "")) > MAX_DESCRIPTION:
        yield "spec.description", f"at most {MAX_DESCRIPTION} characters"


def isolation(spec: Mapping[str, Any]) -> str:
    """How the code of an agent with this spec is held."""
    if "python" not in spec:
        return "PLAN"
    return "SANDBOXED" if spec["python"].get("source") else "TRUSTED"


def _python_agent(python: Mapping[str, Any]) -> Iterator[Flaw]:
    if "entry_point" not in python:
        yield from _source(python, ast.AsyncFunctionDef, "coroutine function (async def)")
        limits = python.get("limits", {})
        yield from _memory(limits, "spec.python.limits.memory_bytes")
        yield from _duration(limits, "cpu", "spec.python.limits.cpu", 0.01, MAX_ATTEMPT_SECONDS)
        return
    if not _ENTRY_POINT.fullmatch(python["entry_point"]):
        yield "spec.python.entry_point", "must name an entry point of group interlock.agents"
    for name in ("source", "entrypoint", "limits"):
        if name in python:
            yield f"spec.python.{name}", "is for sandboxed agents, and excludes entry_point"


def _llm(llm: Mapping[str, Any]) -> Iterator[Flaw]:
    if not 1 <= len(llm.get("instructions", "")) <= MAX_INSTRUCTIONS:
        yield "spec.llm.instructions", f"1 to {MAX_INSTRUCTIONS} characters are required"
    if not AGENT_NAME.fullmatch(llm.get("connection", "")):
        yield "spec.llm.connection", "must be the id of a model connection: interlock connections list"
    model = llm.get("model", "")
    if not 1 <= len(model) <= MAX_MODEL or not model.isprintable():
        yield "spec.llm.model", f"must be a model of the connection, at most {MAX_MODEL} characters"
    if not 0 <= int(llm.get("max_steps", 0)) <= MAX_MODEL_CALLS:
        yield "spec.llm.max_steps", f"must be 1 to {MAX_MODEL_CALLS}, or 0 for the default"
    for name in ("max_tokens", "max_cost_micros"):
        if int(llm.get(name, 0)) < 0:
            yield f"spec.llm.{name}", "must not be negative"
    temperature = llm.get("temperature", 0)
    # A number that JSON cannot hold comes as a word.
    if not isinstance(temperature, int | float) or not 0 <= temperature <= MAX_TEMPERATURE:
        yield "spec.llm.temperature", f"must be 0 to {MAX_TEMPERATURE}"
    names = [binding.get("agent", "") for binding in llm.get("agents", [])]
    yield from _bindings("spec.llm.agents", names, AGENT_NAME, "agent", MAX_AGENTS)


def _source(
    python: Mapping[str, Any], wanted: type[ast.FunctionDef | ast.AsyncFunctionDef], what: str
) -> Iterator[Flaw]:
    source = python.get("source", "")
    entrypoint = python.get("entrypoint") or "run"
    if not source:
        yield "spec.python.source", "required: one Python module"
        return
    if len(source.encode()) > MAX_SOURCE_BYTES:
        yield "spec.python.source", f"at most {MAX_SOURCE_BYTES} bytes of UTF-8"
        return
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        yield (
            "spec.python.source",
            f"not Python{f', line {line}' if line else ''}: {getattr(error, 'msg', 'too deep')}",
        )
        return
    defined = {node.name for node in module.body if isinstance(node, wanted)}
    if entrypoint not in defined:
        yield "spec.python.entrypoint", f"the source defines no {what} {entrypoint!r} at its top level"


def _http_tool(http: Mapping[str, Any]) -> Iterator[Flaw]:
    if not _CONNECTION.fullmatch(http.get("connection", "")):
        yield "spec.http.connection", "must be the id of a connection to an HTTP origin"
    if http.get("method", "GET") not in METHODS:
        yield "spec.http.method", f"must be one of {', '.join(METHODS)}"
    path = http.get("path", "")
    if len(path) > MAX_PATH or not _PATH.fullmatch(path):
        yield "spec.http.path", "must be like /people/{id}, with names of arguments in braces"
    elif any(part in (".", "..") for part in path.split("/")):
        yield "spec.http.path", "must have no . or .. in it"
    for name, argument in sorted(http.get("query", {}).items()):
        if not name or not _ARGUMENT.fullmatch(argument):
            yield f"spec.http.query[{name}]", "must be the name of an argument"
    if http.get("body") and http.get("method", "GET") in ("GET", "HEAD"):
        yield "spec.http.body", "GET and HEAD have none"


def _connections(connections: list[str]) -> Iterator[Flaw]:
    if len(connections) > MAX_CONNECTIONS:
        yield "spec.connections", f"at most {MAX_CONNECTIONS}"
    for index, connection in enumerate(connections):
        if not _CONNECTION.fullmatch(connection):
            yield f"spec.connections[{index}]", "must be the id of a connection"
        elif connection in connections[:index]:
            yield f"spec.connections[{index}]", f"{connection!r} is listed twice"


def _limits(limits: Mapping[str, Any]) -> Iterator[Flaw]:
    yield from _duration(limits, "timeout", "spec.limits.timeout", 0.01, TOOL_SECONDS)
    yield from _duration(limits, "cpu", "spec.limits.cpu", 0.01, TOOL_SECONDS)
    yield from _memory(limits, "spec.limits.memory_bytes")
    result = int(limits.get("result_bytes", 0))
    if not 0 <= result <= MAX_RESULT_BYTES:
        yield "spec.limits.result_bytes", f"must be at most {MAX_RESULT_BYTES}, or 0 for the default"
    for name in ("max_running", "max_calls_per_minute"):
        if int(limits.get(name, 0)) < 0:
            yield f"spec.limits.{name}", "must be at least 1, or 0 for no limit"


def _memory(limits: Mapping[str, Any], field: str) -> Iterator[Flaw]:
    memory = int(limits.get("memory_bytes", 0))
    if memory and not MIN_MEMORY_BYTES <= memory <= MAX_MEMORY_BYTES:
        yield field, f"must be {MIN_MEMORY_BYTES} to {MAX_MEMORY_BYTES}, or 0 for the default"


def _capabilities(capabilities: list[str]) -> Iterator[Flaw]:
    if not 1 <= len(capabilities) <= MAX_CAPABILITIES:
        yield "spec.capabilities", f"1 to {MAX_CAPABILITIES} are required"
    for index, capability in enumerate(capabilities):
        if not is_capability(capability):
            yield (
                f"spec.capabilities[{index}]",
                "must be dotted lower-case words, for example data.csv.summarise",
            )
        elif capability in capabilities[:index]:
            yield f"spec.capabilities[{index}]", f"{capability!r} is listed twice"


def _plan(plan: Mapping[str, Any], bound: set[str]) -> Iterator[Flaw]:
    steps = plan.get("steps", [])
    if not 1 <= len(steps) <= MAX_STEPS:
        yield "spec.plan.steps", f"1 to {MAX_STEPS} are required"
    earlier: set[str] = set()
    for index, step in enumerate(steps):
        where = f"spec.plan.steps[{index}]"
        key = step.get("key", "")
        if not _STEP_KEY.fullmatch(key):
            yield f"{where}.key", "must be 1 to 64 of a-z, 0-9 and _"
        elif key in earlier:
            yield f"{where}.key", f"{key!r} is used twice"
        yield from _action(where, step, bound)
        for name, expression in sorted(step.get("arguments", {}).items()):
            yield from _expression(f"{where}.arguments[{name}]", expression, earlier)
        earlier.add(key)
    if plan.get("result"):
        yield from _expression("spec.plan.result", plan["result"], earlier)


def _action(where: str, step: Mapping[str, Any], bound: set[str]) -> Iterator[Flaw]:
    if "agent" not in step:
        if step.get("tool", "") not in bound:
            yield f"{where}.tool", "must be one of spec.tools; or name an agent"
    elif "tool" in step:
        yield f"{where}.agent", "excludes tool: a step calls a tool or gives work to an agent"
    elif not AGENT_NAME.fullmatch(step["agent"]):
        yield f"{where}.agent", "must be the name of an agent"


def _expression(where: str, expression: str, earlier: set[str]) -> Iterator[Flaw]:
    if len(expression) > MAX_EXPRESSION:
        yield where, f"at most {MAX_EXPRESSION} characters"
        return
    try:
        parsed = jmespath.compile(expression).parsed
    except (jmespath.exceptions.JMESPathError, RecursionError) as error:
        yield where, f"not a JMESPath expression: {str(error).splitlines()[0][:200]}"
        return
    for key in sorted(_steps_named(parsed) - earlier):
        yield where, f"names the step {key!r}, which does not come before"


def _steps_named(node: Any) -> set[str]:
    """Keys k of every `steps.k` in a parsed expression."""
    if not isinstance(node, dict):
        return set()
    children = node.get("children", [])
    named = {key for child in children for key in _steps_named(child)}
    if node.get("type") == "subexpression" and all(child.get("type") == "field" for child in children[:2]):
        first, second, *_ = children
        if first["value"] == "steps":
            named.add(second["value"])
    return named


def _retry(retry: Mapping[str, Any]) -> Iterator[Flaw]:
    if not 0 <= int(retry.get("max_failures", 0)) <= MAX_FAILURES:
        yield "spec.retry.max_failures", f"must be 1 to {MAX_FAILURES}, or 0 for the default"
    yield from _duration(retry, "initial_interval", "spec.retry.initial_interval", 0.001, 3600.0)
    yield from _duration(retry, "maximum_interval", "spec.retry.maximum_interval", 0.001, 86400.0)
    coefficient = retry.get("coefficient", 0)
    # A number that JSON cannot hold comes as a word.
    if not isinstance(coefficient, int | float) or (coefficient and not 1 <= coefficient <= MAX_COEFFICIENT):
        yield "spec.retry.coefficient", f"must be 1 to {MAX_COEFFICIENT}, or 0 for the default"
    classes = retry.get("non_retryable_classes", [])
    if len(classes) > MAX_CLASSES or any(not 1 <= len(each) <= MAX_CLASS for each in classes):
        yield (
            "spec.retry.non_retryable_classes",
            f"at most {MAX_CLASSES} classes of 1 to {MAX_CLASS} characters",
        )


def _duration(holder: Mapping[str, Any], name: str, field: str, least: float, most: float) -> Iterator[Flaw]:
    if name in holder and not least <= float(holder[name].removesuffix("s")) <= most:
        yield field, f"must be {least:g} s to {most:g} s"
