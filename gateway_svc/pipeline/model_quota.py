"""Step 8 for models: the quotas of the connection, and what a request sets aside of them. Pure."""

from gateway_svc.connection import Connection, ModelPrice
from gateway_svc.pipeline.pending import Arguments, Model
from gateway_svc.quotas import Ceiling, Gate, ceilings
from gateway_svc.tool_call import CallKind, Reserve
from svc_kit.strict_json import JsonValue

# Of a request that does not say how long its answer may be.
ANSWER_TOKENS = 4096
_MAX_ANSWERS = 128
_PER = 1_000_000


def quotas(connection: Connection) -> tuple[Ceiling, ...]:
    """Those that are set."""
    content = connection.content
    return ceilings(
        Gate(connection.tenant, CallKind.MODEL, connection.connection_id),
        said_by="its operator",
        max_per_minute=content.max_requests_per_minute,
        max_tokens_per_day=content.max_tokens_per_day,
        max_cost_micros_per_day=content.max_cost_micros_per_day,
    )


def reserve(request: Arguments, model: Model) -> Reserve:
    """The most that it can use up: no token has less than a byte."""
    tokens_in, tokens_out = len(request.canonical), _answer_tokens(request.value)
    price = model.connection.content.models[model.name]
    return Reserve(tokens=tokens_in + tokens_out, cost_micros=cost(price, tokens_in, tokens_out))


def cost(price: ModelPrice, tokens_in: int, tokens_out: int) -> int:
    """In millionths of the currency, rounded up."""
    return -(-(tokens_in * price.input_micros + tokens_out * price.output_micros) // _PER)


def _answer_tokens(request: dict[str, JsonValue]) -> int:
    said = [_count(request.get(name)) for name in ("max_completion_tokens", "max_tokens")]
    most = max((each for each in said if each is not None), default=ANSWER_TOKENS)
    answers = _count(request.get("n"))
    return most * min(max(answers or 1, 1), _MAX_ANSWERS)


def _count(said: JsonValue) -> int | None:
    is_count = isinstance(said, int) and not isinstance(said, bool) and 0 <= said < 2**31
    return said if is_count and isinstance(said, int) else None
