"""What a provider answered, judged: a chat completion, a refusal for now, or one for good. Pure."""

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from gateway_svc.connection import ModelPrice
from gateway_svc.errors import model_busy, model_refused, model_unavailable
from gateway_svc.outgoing_http import HttpAnswer
from gateway_svc.pipeline.model_quota import cost
from gateway_svc.pipeline.pending import Begun, Model
from gateway_svc.redaction import Redaction
from gateway_svc.tool_call import CallStatus, Outcome, Usage
from svc_kit.errors import DomainError, InvalidArgument
from svc_kit.strict_json import MAX_BYTES, JsonValue, canonical, parse

_OK = 200
_BUSY = 429
_FOR_NOW = frozenset({408, 409, 425})
_CLIENT_ERRORS = range(400, 500)
_REDIRECTS = range(300, 400)
_LEAST_WAIT, _LONGEST_WAIT, _USUAL_WAIT = 1.0, 3600.0, 5.0
_MAX_SAID = 500


def judge(answer: HttpAnswer, begun: Begun, model: Model, *, credential: str, now: datetime) -> Outcome:
    """The outcome of an answer that holds a completion, good or not.

    Raises MODEL_BUSY, MODEL_UNAVAILABLE or MODEL_REFUSED for one by which the provider did nothing.
    """
    body, redaction = answer.body, Redaction([credential])
    if answer.status != _OK:
        raise _refusal(answer, _said(body, redaction), model, now)
    base = Outcome(status=CallStatus.FAILED, end_time=now, isolation="")
    try:
        value = parse(body, field="response")
    except InvalidArgument:
        return _failed(base, "MODEL_OUTPUT_INVALID", "The model's provider answered no acceptable JSON.")
    if not isinstance(value, dict) or not isinstance(value.get("choices"), list) or not value["choices"]:
        return _failed(base, "MODEL_OUTPUT_INVALID", "The model's provider answered no chat completion.")
    usage = _usage(value, begun, body, model.connection.content.models[model.name])
    used: dict[str, JsonValue] = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_micros": usage.cost_micros,
    }
    result = canonical({"response": redaction.value(value), "usage": used})
    if len(result) > MAX_BYTES:
        return too_large(now)
    return Outcome(
        status=CallStatus.COMPLETED, end_time=now, isolation="", result_json=result.decode(), usage=usage
    )


def too_large(now: datetime) -> Outcome:
    """The outcome of an answer that nobody can keep."""
    base = Outcome(status=CallStatus.FAILED, end_time=now, isolation="", limit="output")
    return _failed(base, "LIMIT_EXCEEDED", f"The model's answer has more than {MAX_BYTES} bytes.")


def _failed(base: Outcome, reason: str, message: str) -> Outcome:
    return Outcome(
        status=base.status,
        end_time=base.end_time,
        isolation=base.isolation,
        reason=reason,
        message=message,
        limit=base.limit,
    )


def _refusal(answer: HttpAnswer, said: str, model: Model, now: datetime) -> DomainError:
    connection_id, status = model.connection.connection_id, answer.status
    if status == _BUSY:
        return model_busy(connection_id, status, retry_after=_wait(answer, now, _USUAL_WAIT))
    if status in _REDIRECTS:
        return model_refused(connection_id, status, "a redirect, which is never followed")
    if status in _CLIENT_ERRORS and status not in _FOR_NOW:
        return model_refused(connection_id, status, said)
    return model_unavailable(connection_id, f"answered {status}", retry_after=_wait(answer, now, _LEAST_WAIT))


def _wait(answer: HttpAnswer, now: datetime, usual: float) -> float:
    """As the provider asks, in seconds or as a date, within reason."""
    told = answer.headers.get("retry-after", "")
    try:
        seconds = float(told)
    except ValueError:
        try:
            when = parsedate_to_datetime(told)
        except (ValueError, OverflowError):
            return usual
        seconds = ((when if when.tzinfo else when.replace(tzinfo=UTC)) - now).total_seconds()
    return min(max(seconds, _LEAST_WAIT), _LONGEST_WAIT) if seconds == seconds else usual  # noqa: PLR0124


def _said(body: bytes, redaction: Redaction) -> str:
    """The provider's own words, as far as people can read them."""
    try:
        value: Any = json.loads(body)
        said = value["error"]["message"] if isinstance(value["error"], dict) else value["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        said = ""
    # Cut off first, a secret would leave its beginning behind.
    text = redaction.text(str(said))[:_MAX_SAID].encode(errors="replace").decode()
    return "".join(each if each.isprintable() else " " for each in text).strip()


def _usage(value: dict[str, JsonValue], begun: Begun, body: bytes, price: ModelPrice) -> Usage:
    told = value.get("usage")
    told = told if isinstance(told, dict) else {}
    # Of what the provider does not count, each byte counts as a token: no budget is outrun by silence.
    tokens_in = _count(told.get("prompt_tokens"), len(begun.cleared.arguments.canonical))
    tokens_out = _count(told.get("completion_tokens"), len(body))
    return Usage(
        input_tokens=tokens_in, output_tokens=tokens_out, cost_micros=cost(price, tokens_in, tokens_out)
    )


def _count(told: JsonValue, otherwise: int) -> int:
    is_count = isinstance(told, int) and not isinstance(told, bool) and 0 <= told < 2**31
    return told if is_count and isinstance(told, int) else otherwise
