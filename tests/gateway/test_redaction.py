"""Secrets that come back from outside: in no sink, in whatever usual form."""

import base64
import json
import urllib.parse
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway_svc.redaction import REDACTED, Redaction
from svc_kit.strict_json import canonical
from tests.gateway.models import KEY, Models, publish
from tests.gateway.openai_server import Reply, openai_server
from tests.gateway.world import World, gateway
from tests.suite_fixtures import PostgresServer

_SECRETS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8, max_size=60)
_TEXTS = st.text(max_size=20)
FORMS: dict[str, Callable[[str], str]] = {
    "itself": lambda secret: secret,
    "percent": lambda secret: urllib.parse.quote(secret, safe=""),
    "every byte percent": lambda secret: "".join(f"%{byte:02X}" for byte in secret.encode()),
    "hex": lambda secret: secret.encode().hex(),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
    "JSON": json.dumps,
    "escapes": lambda secret: "".join(f"\\u{ord(each):04x}" for each in secret),
}


@pytest.mark.parametrize("form", FORMS)
@given(secret=_SECRETS, before=_TEXTS, after=_TEXTS)
def test_no_form_of_a_secret_is_left_in_a_text(form: str, secret: str, before: str, after: str) -> None:
    written = FORMS[form](secret)
    left = Redaction([secret]).text(f"{before}{written}{after}")
    assert secret not in left.replace(REDACTED, "")
    assert REDACTED in left


@given(secret=_SECRETS, before=st.binary(max_size=9), after=st.binary(max_size=9))
def test_a_secret_amid_other_bytes_is_found_in_their_base64(secret: str, before: bytes, after: bytes) -> None:
    encoded = base64.b64encode(before + secret.encode() + after).decode()
    left = Redaction([secret]).text(encoded)
    assert REDACTED in left
    # But for the characters at both ends that hold bits of the neighbours as well.
    assert len(left.replace(REDACTED, "")) <= len(encoded) - (8 * len(secret) - 10) // 6


_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(secret=_SECRETS, value=_JSON)
def test_json_stays_json_and_what_holds_no_secret_stays_as_it_is(secret: str, value: Any) -> None:
    redaction = Redaction([secret])
    hidden: Any = {"a": [value, {secret: 1}], "b": f"x{secret}y", "c": secret}
    left = redaction.value(hidden)
    assert json.loads(canonical(left)) == left
    assert secret not in canonical(left).decode().replace(REDACTED, "")
    without: Any = {"a": [1, "two", None]}
    assert redaction.value(without) is without


def test_a_number_that_is_a_secret_is_taken_out_and_short_ones_are_left_alone() -> None:
    assert Redaction(["12345678"]).value([12345678, True, 1]) == [REDACTED, True, 1]
    assert Redaction(["abc", ""]).text("abc") == "abc"


@pytest.fixture
async def models(closed_world: World) -> AsyncIterator[Models]:
    publish(closed_world)
    async with openai_server() as provider, gateway(closed_world):
        connected = Models(world=closed_world, provider=provider)
        await connected.connect()
        yield connected


async def test_a_provider_that_hands_the_key_back_in_every_form_leaves_it_in_no_sink(
    models: Models,
    postgres_server: PostgresServer,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    forms = {name: form(KEY) for name, form in FORMS.items()}
    escaped = "".join(f"\\u{ord(each):04x}" for each in KEY)
    content = json.dumps({"choices": [{"message": {"content": forms, KEY: KEY}}], "usage": {KEY: 1}})
    refused = json.dumps({"error": {"message": " ".join(forms.values())}})
    models.provider.replies(
        Reply(status=401, body=refused.encode(), headers={"retry-after": KEY, "x-echo": KEY}),
        Reply(status=400, body=f'{{"error": "{escaped}"}}'.encode()),
        Reply(body=f'{{"choices": ["{escaped}"]}}'.encode()),
        Reply(body=content.encode(), headers={"x-echo": KEY}),
    )
    seen: list[Any] = []
    permits = [models.permit() for _ in range(4)]
    with structlog.testing.capture_logs() as logs:
        for permit in permits[:2]:
            error = await models.refusal(permit)
            seen += [error.message, error.metadata, str(error)]
        seen += [await models.call(permit) for permit in permits[2:]]
        for permit in permits:
            await models.world.told(permit, 2)
            seen.append(await models.world.get(permit))
    tables = await models.world.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables:
        seen += await models.world.sql(f"SELECT to_jsonb({table})::text, {table}::text FROM {table}")  # noqa: S608
    seen += [models.world.audit.events, [event.SerializeToString() for event in models.world.audit.events]]
    out, err = capfd.readouterr()
    seen += [logs, out, err, caplog.text]
    told = repr(seen)
    assert REDACTED in told
    for name, form in (forms | {"escaped": escaped}).items():
        assert form not in told, name
    assert not [path for path in _written(postgres_server) if KEY.encode() in path.read_bytes()]


def _written(server: PostgresServer) -> list[Path]:
    """Everything that the database server has written: tables, write-ahead log and its own log."""
    with psycopg.connect(server.url) as connection:
        row = connection.execute("SHOW data_directory").fetchone()
        connection.execute("CHECKPOINT")
    assert row is not None
    found = [path for path in Path(row[0]).rglob("*") if path.is_file()]
    assert [path for path in found if path.parent.name == "pg_wal"]
    return [*found, server.server.command().log]
