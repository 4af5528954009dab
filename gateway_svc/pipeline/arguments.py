"""Step 5: the arguments are the ones that the permit names, and fit the tool's schema."""

from gateway_svc.errors import arguments_invalid, definition_changed, permit_mismatch
from gateway_svc.pipeline.pending import Arguments, Pending, Tool
from gateway_svc.schemas import SchemaCache, SchemaUnusable
from svc_kit.errors import InvalidArgument, Violation
from svc_kit.strict_json import canonical, digest, parse


class ArgumentCheck:
    """Parses once, strictly, and checks everything on what was parsed."""

    def __init__(self, schemas: SchemaCache) -> None:
        self._schemas = schemas

    def check(self, pending: Pending, tool: Tool) -> Arguments:
        """The arguments; raises ARGUMENTS_INVALID with every violation, or PERMIT_MISMATCH."""
        arguments = parse_arguments(pending)
        try:
            found = self._schemas.violations(tool.digest, tool.input_schema_json, "input", arguments.value)
        except SchemaUnusable:
            raise definition_changed(pending.asked) from None
        if found:
            raise arguments_invalid(found)
        return arguments


def parse_arguments(pending: Pending) -> Arguments:
    """Strict JSON whose canonical bytes have the digest that was signed."""
    try:
        value = parse(pending.arguments_json, field="arguments_json")
    except InvalidArgument as error:
        raise arguments_invalid(list(error.violations)) from None
    if not isinstance(value, dict):
        raise arguments_invalid([Violation("arguments_json", "must be a JSON object")])
    text = canonical(value)
    if digest(text) != pending.asked.argument_digest:
        raise permit_mismatch("argument_digest", "the step permit is for other arguments")
    return Arguments(value=value, canonical=text)
