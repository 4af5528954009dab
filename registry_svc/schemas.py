"""Which JSON Schemas may be published: valid, self-contained, bounded, and quick to check against."""

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from svc_kit.json_schema import SchemaUnusable, compile_schema

MAX_BYTES = 65_536
MAX_DEPTH = 32
# Each alternative multiplies the work of one validation; schemas of real tools stay far below.
MAX_ALTERNATIVES = 64
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def problems(schema: object, *, must_be_object: bool) -> list[str]:
    """Every reason why `schema` may not be published; empty when it may.

    `must_be_object`: the schema describes arguments or a task input, which are JSON objects. The schema has
    been parsed strictly before and is within the byte cap.
    """
    if not isinstance(schema, dict):
        return ["a schema is a JSON object"]
    found = [*_structure(schema)]
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        path = "/".join(str(part) for part in error.absolute_path)
        return [*found, f"not a valid schema at /{path}: {error.message[:300]}"]
    if must_be_object and schema.get("type") != "object":
        found.append('"type" must be "object"')
    return found or [*_runs(schema)]


def _structure(schema: dict[str, Any]) -> Iterator[str]:
    dialect = schema.get("$schema", DIALECT)
    if not isinstance(dialect, str) or dialect.rstrip("#") != DIALECT:
        yield f'"$schema" must be {DIALECT} or absent'
    alternatives = 0
    for path, depth, node in _walk(schema):
        if depth > MAX_DEPTH:
            yield f"nested deeper than {MAX_DEPTH} levels at /{path}"
            return
        for word in ("$ref", "$dynamicRef"):
            target = node.get(word)
            if isinstance(target, str) and not target.startswith("#"):
                yield f'"{word}" at /{path} must stay within the schema (begin with "#")'
        if "$id" in node and path:
            yield f'"$id" at /{path} is allowed at the top alone'
        alternatives += sum(
            len(node[word]) for word in ("anyOf", "oneOf", "allOf") if isinstance(node.get(word), list)
        )
    if alternatives > MAX_ALTERNATIVES:
        yield f"{alternatives} alternatives in anyOf, oneOf and allOf; at most {MAX_ALTERNATIVES}"


def _walk(node: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, int, dict[str, Any]]]:
    if isinstance(node, dict):
        yield path, depth, node
        children = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list):
        children = [(str(index), value) for index, value in enumerate(node)]
    else:
        return
    for key, value in children:
        yield from _walk(value, f"{path}/{key}" if path else key, depth + 1)


def _runs(schema: dict[str, Any]) -> Iterator[str]:
    try:
        compiled = compile_schema(schema)
    except SchemaUnusable as error:
        yield f"does not compile: {error}"
        return
    if "default" in schema and not compiled.is_valid(schema["default"]):
        yield '"default" does not fit the schema'
    examples = schema.get("examples")
    if isinstance(examples, list):
        for index, example in enumerate(examples):
            if not compiled.is_valid(example):
                yield f"example {index} does not fit the schema"
