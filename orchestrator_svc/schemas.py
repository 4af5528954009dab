"""Task inputs against the JSON Schema of their agent: offline, in linear time, all violations."""

import itertools
import json
from collections import OrderedDict
from collections.abc import Iterator

import jsonschema_rs

from svc_kit.errors import Violation
from svc_kit.strict_json import JsonValue

MAX_VIOLATIONS = 50
_MAX_MESSAGE = 300
_MAX_COMPILED = 1024


class InputSchemas:
    """Compiled schemas by the digest of the agent version they stand in, which never changes its meaning."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[str, jsonschema_rs.Draft202012Validator] = OrderedDict()

    def violations(self, digest: str, schema_json: str, value: JsonValue, *, field: str) -> list[Violation]:
        """Everything wrong with `value`, on `field`; an empty schema takes every object."""
        if not schema_json:
            return []
        validator = self._compiled.get(digest)
        if validator is None:
            validator = _compile(schema_json)
            self._compiled[digest] = validator
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
        if validator.is_valid(value):
            return []
        return list(itertools.islice(_violations(validator, value, field), MAX_VIOLATIONS))


def _compile(schema_json: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        json.loads(schema_json),
        validate_formats=False,
        offline=True,
        pattern_options=jsonschema_rs.RegexOptions(),
    )


def _violations(
    validator: jsonschema_rs.Draft202012Validator, value: JsonValue, field: str
) -> Iterator[Violation]:
    for error in validator.iter_errors(value):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
        yield Violation(field, f"at ${path}: {error.message[:_MAX_MESSAGE]}", "SCHEMA")
