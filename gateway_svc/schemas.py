"""Values against JSON Schema 2020-12: offline, in linear time, every violation by its place."""

import itertools
import json
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import jsonschema_rs

from svc_kit.errors import Violation
from svc_kit.strict_json import JsonValue

MAX_VIOLATIONS = 100
_MAX_MESSAGE = 300
_MAX_COMPILED = 1024


class SchemaUnusable(Exception):
    """The schema does not compile under our rules; the registry publishes none such."""


class SchemaCache:
    """Compiled schemas by the digest of the tool version they stand in, which never changes its meaning."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[tuple[str, str], jsonschema_rs.Draft202012Validator] = OrderedDict()

    def violations(self, digest: str, schema_json: str, part: str, value: JsonValue) -> list[Violation]:
        """Everything wrong with `value`; `part` tells the two schemas of one tool version apart.

        `field` is a JSON pointer into the value, empty for the whole of it. An empty schema takes everything.
        """
        if not schema_json:
            return []
        found = _violations(self._validator(digest, part, schema_json), value)
        listed = list(itertools.islice(found, MAX_VIOLATIONS + 1))
        if len(listed) > MAX_VIOLATIONS:
            listed[MAX_VIOLATIONS:] = [Violation("", f"and more: only the first {MAX_VIOLATIONS} are listed")]
        return listed

    def _validator(self, digest: str, part: str, schema_json: str) -> jsonschema_rs.Draft202012Validator:
        validator = self._compiled.get((digest, part))
        if validator is None:
            validator = _compile(schema_json)
            self._compiled[digest, part] = validator
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        return validator


def _compile(schema_json: str) -> jsonschema_rs.Draft202012Validator:
    try:
        return jsonschema_rs.Draft202012Validator(
            json.loads(schema_json),
            validate_formats=False,
            offline=True,
            pattern_options=jsonschema_rs.RegexOptions(),
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise SchemaUnusable(str(error).split("\n", 1)[0][:_MAX_MESSAGE]) from None


def _violations(validator: jsonschema_rs.Draft202012Validator, value: Any) -> Iterator[Violation]:
    if validator.is_valid(value):
        return
    for error in validator.iter_errors(value):
        path = list(error.instance_path)
        members = _members(error.kind)
        for member, message in members:
            yield Violation(pointer([*path, member]), message)
        if not members:
            yield Violation(pointer(path), error.message[:_MAX_MESSAGE])


def _members(kind: Any) -> list[tuple[str, str]]:
    """The members that are missing or should not be there, when the error is about such, as its places."""
    if kind.name == "required":
        return [(kind.property, "is required")]
    if kind.name in ("additionalProperties", "unevaluatedProperties"):
        return [(member, "is not a member that the schema knows") for member in kind.unexpected]
    return []


def pointer(path: list[str | int]) -> str:
    """The JSON pointer (RFC 6901) of a path."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
