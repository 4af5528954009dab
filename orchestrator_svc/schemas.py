"""Task inputs against the JSON Schema of their agent."""

from orchestrator_svc.errors import input_schema_unusable
from orchestrator_svc.records import AgentPin
from svc_kit.errors import Violation
from svc_kit.json_schema import SchemaCache, SchemaUnusable
from svc_kit.strict_json import JsonValue


class InputSchemas:
    """Compiled schemas of agent versions."""

    def __init__(self) -> None:
        self._schemas = SchemaCache()

    def violations(self, pin: AgentPin, schema_json: str, value: JsonValue, *, field: str) -> list[Violation]:
        """Everything wrong with `value`, on `field`; an empty schema takes every object.

        Raises SCHEMA_INVALID when the agent version's schema cannot be used.
        """
        if not schema_json:
            return []
        try:
            schema = self._schemas.get(pin.digest, schema_json)
        except SchemaUnusable as error:
            raise input_schema_unusable(pin.name, pin.version, str(error)) from None
        return [
            Violation(field, f"at {each.field}: {each.message}" if each.field else each.message, "SCHEMA")
            for each in schema.violations(value)
        ]
