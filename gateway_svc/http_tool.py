"""Tools without code: one request, put together of the arguments as data. Pure."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from svc_kit.errors import InvalidArgument
from svc_kit.strict_json import JsonValue, parse

PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FAILED = 400
_MAX_SAID = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTool:
    """What a tool version says of its request."""

    connection: str
    method: str
    path: str
    """With `{argument}` where an argument stands, encoded as one segment or a part of one."""
    query: Mapping[str, str]
    """Names of parameters, and of the arguments that they get."""
    body: bool
    """Whether the other arguments are sent as a JSON object."""


class RequestFailed(Exception):
    """The other side answered that it did not do it."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


class PlaceEmpty(ValueError):
    """An argument of the path has no value: the request would be another one."""


def asked(tool: HttpTool, arguments: Mapping[str, JsonValue]) -> dict[str, Any]:
    """The request for `to_request`; raises PlaceEmpty. A query parameter without a value is left out."""
    placed = set(PLACE.findall(tool.path))
    for name in sorted(placed):
        if not _text(arguments.get(name)):
            raise PlaceEmpty(f"argument {name} is empty, and stands in the path")
    path = PLACE.sub(lambda found: quote(_text(arguments.get(found[1])), safe=""), tool.path)
    query = [
        [name, _text(each)]
        for name, argument in tool.query.items()
        if arguments.get(argument) is not None
        for each in _each(arguments[argument])
    ]
    rest = {
        name: value
        for name, value in arguments.items()
        if name not in placed and name not in tool.query.values()
    }
    body = json.dumps(rest, ensure_ascii=False).encode() if tool.body else b""
    return {
        "connection": tool.connection,
        "path": path,
        "method": tool.method,
        "query": query,
        "headers": {"accept": "application/json"} | ({"content-type": "application/json"} if body else {}),
        "body": base64.b64encode(body).decode(),
    }


def result(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The tool's result: `status`, and `body` as JSON where it is, else as text; raises RequestFailed."""
    content = base64.b64decode(answer["body"])
    text = content.decode("utf-8", "replace")
    if answer["status"] >= _FAILED:
        raise RequestFailed(answer["status"], text[:_MAX_SAID])
    body: Any = text
    if "json" in answer["headers"].get("content-type", ""):
        try:
            body = parse(content, field="body")
        except InvalidArgument:
            body = text
    return {"status": answer["status"], "body": body}


def _text(value: JsonValue) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _each(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else [value]
