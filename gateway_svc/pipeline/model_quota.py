"""Step 8 for models: the quotas of the connection, and what a request sets aside of them. Pure."""

from collections.abc import Iterator

from gateway_svc.connection import Connection, ModelPrice
from gateway_svc.pipeline.pending import Arguments, Model
from gateway_svc.quotas import Ceiling, Gate, ceilings
from gateway_svc.tool_call import CallKind, Reserve
from svc_kit.errors import Violation
from svc_kit.strict_json import JsonValue

# Of a request that does not say how long its answer may be.
ANSWER_TOKENS = 4096
_LENGTHS = ("max_completion_tokens", "max_tokens")
_MAX_TOKENS = 2**31 - 1
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


def size_flaws(request: dict[str, JsonValue]) -> Iterator[Violation]:
    """What a request says of its answer's size that a provider may read in another way than is set aside."""
    for name, most in (*((each, _MAX_TOKENS) for each in _LENGTHS), ("n", _MAX_ANSWERS)):
        said = request.get(name)
        if said is not None and (type(said) is not int or not 1 <= said <= most):
            yield Violation(f"request_json.{name}", f"must be a whole number of 1 to {most}")


def _answer_tokens(request: dict[str, JsonValue]) -> int:
    said = [each for name in _LENGTHS if isinstance(each := request.get(name), int)]
    answers = request.get("n")
    return max(said, default=ANSWER_TOKENS) * (answers if isinstance(answers, int) else 1)
