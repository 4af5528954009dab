"""Arguments and results against the schemas of their tool."""

from svc_kit import json_schema
from svc_kit.errors import Violation
from svc_kit.json_schema import MAX_VIOLATIONS, SchemaUnusable
from svc_kit.strict_json import JsonValue

__all__ = ["MAX_VIOLATIONS", "SchemaCache", "SchemaUnusable"]


class SchemaCache:
    """Compiled schemas of tool versions."""

    def __init__(self) -> None:
        self._schemas = json_schema.SchemaCache()

    def violations(self, digest: str, schema_json: str, part: str, value: JsonValue) -> list[Violation]:
        """Everything wrong with `value`; `part` tells the two schemas of one tool version apart.

        `field` is a JSON pointer into the value, empty for the whole of it. An empty schema takes everything.
        """
        if not schema_json:
            return []
        return self._schemas.get(f"{part} {digest}", schema_json).violations(value)
