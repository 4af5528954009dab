import asyncio
import os
import re
import signal
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from svc_kit.clients import ClientTls, channel
from svc_kit.doors import Service, method_table
from svc_kit.identity import LocalIssuer, Role, TokenVerifier
from svc_kit.server import Addresses, BindError, run, running_server
from svc_kit.settings import ServiceSettings
from svc_kit.status import from_rpc_error
from tests.svc_kit.conftest import Connect
from tests.svc_kit.kit_service import NAME, ROLES, KitService, KitStub

HELLO = StringValue(value="hello")


async def failure(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - the file system sends no events
            await asyncio.sleep(0.01)


def socket_of(settings: ServiceSettings) -> Path:
    return Path(settings.internal_address.removeprefix("unix:"))


def mode_of(settings: ServiceSettings) -> int:
    return socket_of(settings).stat().st_mode


class TestKinds:
    async def test_all_four_kinds_of_calls_pass_the_interceptors(self, viewer: KitStub) -> None:
        assert (await viewer.Echo(HELLO)).value == "hello"
        assert [reply.value async for reply in viewer.Tail(HELLO)] == ["hello0", "hello1", "hello2"]
        letters = [StringValue(value=letter) for letter in "abc"]
        assert (await viewer.Collect(iter(letters))).value == "abc"
        assert [reply.value async for reply in viewer.Chat(iter(letters))] == ["A", "B", "C"]

    async def test_a_conversation_by_read_and_write_works(self, kit: KitService, viewer: KitStub) -> None:
        async def converse(requests: Any, context: Any) -> None:
            while (request := await context.read()) is not grpc.aio.EOF:
                await context.write(StringValue(value=request.value[::-1]))

        kit.does["Chat"] = converse
        call = viewer.Chat()
        for word in ("abc", "xyz"):
            await call.write(StringValue(value=word))
            assert (await call.read()).value == word[::-1]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK

    async def test_the_request_id_of_the_caller_comes_back(self, viewer: KitStub) -> None:
        call = viewer.Echo(HELLO, metadata=(("x-request-id", "abc-123"),))
        await call
        assert (await call.trailing_metadata())["x-request-id"] == "abc-123"

    @pytest.mark.parametrize("sent", ["", "two words", "x" * 200, "<script>"])
    async def test_a_request_id_that_is_none_is_replaced(self, viewer: KitStub, sent: str) -> None:
        call = viewer.Echo(HELLO, metadata=(("x-request-id", sent),))
        await call
        assert re.fullmatch(r"[0-9a-f-]{36}", str((await call.trailing_metadata())["x-request-id"]))

    async def test_a_message_over_the_limit_is_refused(self, viewer: KitStub) -> None:
        error = await failure(viewer.Echo(StringValue(value="x" * 5_000_000)))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_oversized_metadata_is_refused(self, addresses: Addresses) -> None:
        async with grpc.aio.insecure_channel(addresses.public) as bare:
            error = await failure(KitStub(bare).Echo(HELLO, metadata=(("x-long", "x" * 40_000),)))
        assert error.code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)


@pytest.mark.parametrize("door", ["public", "internal"])
@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_describes_under_both_names(
    addresses: Addresses, door: str, version: str
) -> None:
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.reflection.v1.ServerReflection"),
    ]
    async with channel(getattr(addresses, door)) as made:
        ask: Any = made.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        listed, described, itself = [reply async for reply in ask(iter(requests))]
    assert {service.name for service in listed.list_services_response.service} == {
        NAME,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert b"KitService" in described.file_descriptor_response.file_descriptor_proto[0]
    assert b"grpc.reflection.v1" in itself.file_descriptor_response.file_descriptor_proto[0]


class TestRoleTable:
    def test_a_method_without_roles_keeps_the_server_from_starting(self) -> None:
        roles = {name: held for name, held in ROLES.items() if name != "Tail"}
        with pytest.raises(ValueError, match="no roles are declared for Tail"):
            method_table([Service(name=NAME, add=lambda _: None, roles=roles)])

    def test_roles_for_a_method_that_does_not_exist_are_a_mistake(self) -> None:
        roles = ROLES | {"Tial": frozenset({Role.VIEWER})}
        with pytest.raises(ValueError, match="unknown methods Tial"):
            method_table([Service(name=NAME, add=lambda _: None, roles=roles)])

    def test_a_method_that_nobody_may_call_is_a_mistake(self) -> None:
        roles = ROLES | {"Tail": frozenset[Role]()}
        with pytest.raises(ValueError, match="nobody may call Tail"):
            method_table([Service(name=NAME, add=lambda _: None, roles=roles)])

    def test_only_methods_that_say_so_are_public(self) -> None:
        table = method_table([KitService().service()])
        assert table.internal == {f"/{NAME}/Inside", f"/{NAME}/Unstated"}


async def start(settings: ServiceSettings, verifier: TokenVerifier) -> Addresses:
    async with running_server([KitService().service()], settings, verifier=verifier) as addresses:
        return addresses


class TestListening:
    @pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.com:0"])
    @pytest.mark.parametrize("door", ["public_address", "internal_address"])
    async def test_plain_text_beyond_loopback_is_refused(
        self, settings: ServiceSettings, verifier: TokenVerifier, address: str, door: str
    ) -> None:
        with pytest.raises(ValueError, match="reached from other machines: set tls_certificate"):
            await start(settings.model_copy(update={door: address}), verifier)

    async def test_the_local_issuer_is_refused_beyond_loopback(
        self, settings: ServiceSettings, verifier: TokenVerifier
    ) -> None:
        open_wide = {"public_address": "0.0.0.0:0", "allow_plaintext_beyond_loopback": True}
        with pytest.raises(ValueError, match="interlock-local:kit is meant for one"):
            await start(settings.model_copy(update=open_wide), verifier)
        allowed = open_wide | {"allow_local_issuer_beyond_loopback": True}
        assert (await start(settings.model_copy(update=allowed), verifier)).public.startswith("0.0.0.0:")

    async def test_a_taken_port_is_named_and_nothing_stays_open(
        self, settings: ServiceSettings, verifier: TokenVerifier
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(BindError, match=f"cannot listen on {address}"):
                await start(settings.model_copy(update={"public_address": address}), verifier)
        assert not socket_of(settings).exists()

    async def test_the_internal_socket_is_for_its_owner_alone(
        self, addresses: Addresses, settings: ServiceSettings
    ) -> None:
        assert addresses.internal == settings.internal_address
        mode = mode_of(settings)
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600

    async def test_a_socket_left_by_a_killed_process_is_replaced(
        self, settings: ServiceSettings, verifier: TokenVerifier
    ) -> None:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(socket_of(settings)))
        assert (await start(settings, verifier)).internal == settings.internal_address

    @pytest.mark.parametrize(
        "address",
        [
            "localhost",
            ":7461",
            "host:port",
            "127.0.0.1:70000",
            "unix:relative",
            "::1:7461",
            "unix:/" + "x" * 107,
        ],
    )
    def test_a_misspelled_address_is_refused_by_the_settings(self, address: str) -> None:
        with pytest.raises(ValueError, match=r"address|port|unix"):
            ServiceSettings(public_address=address)

    def test_settings_come_from_the_environment_are_frozen_and_hide_passwords(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("INTERLOCK_DATABASE_URL", "postgresql://u:hunter2@h/d")
        monkeypatch.setenv("INTERLOCK_DRAIN_SECONDS", "2.5")
        settings = ServiceSettings()
        assert (settings.database_url, settings.drain_seconds) == ("postgresql://u:hunter2@h/d", 2.5)
        assert "hunter2" not in repr(settings)
        with pytest.raises(ValueError, match="frozen"):
            settings.drain_seconds = 1


class TestTls:
    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, Path]:
        """An authority and a certificate of it for localhost, used by both sides."""
        key = ec.generate_private_key(ec.SECP256R1())
        authority_key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])

        def sign(subject: x509.Name, public: Any, *, is_authority: bool) -> bytes:
            builder = x509.CertificateBuilder(authority, subject, public, x509.random_serial_number())
            builder = builder.not_valid_before(datetime.now(UTC) - timedelta(days=1))
            builder = builder.not_valid_after(datetime.now(UTC) + timedelta(days=1))
            names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
            builder = builder.add_extension(names, critical=False)
            builder = builder.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            signed = builder.sign(authority_key, hashes.SHA256())
            return signed.public_bytes(serialization.Encoding.PEM)

        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        leaf = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        contents = {
            "ca": sign(authority, authority_key.public_key(), is_authority=True),
            "certificate": sign(leaf, key.public_key(), is_authority=False),
            "key": private,
        }
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        return {name: tmp_path / name for name in contents}

    @pytest.fixture
    def settings(self, files: dict[str, Path]) -> ServiceSettings:
        return ServiceSettings(
            public_address="localhost:0",
            tls_certificate=files["certificate"],
            tls_key=files["key"],
            tls_client_ca=files["ca"],
        )

    async def test_mutual_tls_serves_clients_with_a_certificate_and_no_others(
        self, addresses: Addresses, issuer: LocalIssuer, files: dict[str, Path]
    ) -> None:
        token = issuer.mint("ada", "default", [Role.VIEWER], 60)
        known = ClientTls(authority=files["ca"], certificate=files["certificate"], key=files["key"])
        async with channel(addresses.public, lambda: token, tls=known) as made:
            assert (await KitStub(made).Echo(HELLO)).value == "hello"
        async with channel(addresses.public, lambda: token, tls=ClientTls(authority=files["ca"])) as made:
            assert (await failure(KitStub(made).Echo(HELLO))).code is grpc.StatusCode.UNAVAILABLE
        async with channel(addresses.public, lambda: token) as made:
            assert (await failure(KitStub(made).Echo(HELLO))).code is grpc.StatusCode.UNAVAILABLE

    @pytest.mark.parametrize("left_out", ["tls_certificate", "tls_key"])
    async def test_half_of_a_tls_configuration_is_refused(
        self, settings: ServiceSettings, verifier: TokenVerifier, left_out: str
    ) -> None:
        with pytest.raises(ValueError, match="tls_"):
            await start(settings.model_copy(update={left_out: None}), verifier)


class TestDrain:
    async def test_a_drain_says_not_serving_ends_streams_and_lets_calls_finish(
        self, kit: KitService, settings: ServiceSettings, verifier: TokenVerifier, connect: Connect
    ) -> None:
        events: list[str] = []
        begun, finish = asyncio.Event(), asyncio.Event()

        async def slow(request: StringValue, context: Any) -> StringValue:
            begun.set()
            await finish.wait()
            events.append("call finished")
            return StringValue(value="done")

        async def endless(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
            yield StringValue(value="here")
            await asyncio.Event().wait()

        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            events.append("opened")
            yield
            events.append("closed")

        kit.does |= {"Echo": slow, "Tail": endless}
        served = running_server([kit.service()], settings, verifier=verifier, lifespan=lifespan)
        addresses = await served.__aenter__()
        stub = connect(addresses.public, Role.VIEWER)
        async with channel(addresses.internal) as made:
            health_stub: Any = health_pb2_grpc.HealthStub(made)
            health = health_stub.Watch(health_pb2.HealthCheckRequest(service=NAME))
            assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
            call, stream = asyncio.ensure_future(_result(stub.Echo(HELLO))), stub.Tail(HELLO)
            assert (await stream.read()).value == "here"
            await begun.wait()

            stopping = asyncio.ensure_future(served.__aexit__(None, None, None))

            assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            error = await failure(stream.read())
            assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert error.retry_after == 0.5
            assert not stopping.done()
            finish.set()
            assert (await call).value == "done"
            async with asyncio.timeout(5):
                await stopping
        assert events == ["opened", "call finished", "closed"]

    async def test_a_call_that_outlasts_the_drain_is_cut_off(
        self, kit: KitService, settings: ServiceSettings, verifier: TokenVerifier, connect: Connect
    ) -> None:
        begun = asyncio.Event()

        async def stuck(request: StringValue, context: Any) -> StringValue:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        kit.does["Echo"] = stuck
        brief = settings.model_copy(update={"drain_seconds": 0.1})
        async with running_server([kit.service()], brief, verifier=verifier) as addresses:
            call = asyncio.ensure_future(_result(connect(addresses.public, Role.VIEWER).Echo(HELLO)))
            await begun.wait()
        assert (await failure(call)).code is grpc.StatusCode.UNAVAILABLE

    async def test_a_failing_lifespan_keeps_the_doors_closed(
        self, settings: ServiceSettings, verifier: TokenVerifier
    ) -> None:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            raise RuntimeError("no database")
            yield

        with pytest.raises(RuntimeError, match="no database"):
            async with running_server([], settings, verifier=verifier, lifespan=lifespan):
                pass
        assert not socket_of(settings).exists()

    async def test_sigterm_drains_and_a_second_one_cuts_the_drain_short(
        self, kit: KitService, settings: ServiceSettings, verifier: TokenVerifier, connect: Connect
    ) -> None:
        begun = asyncio.Event()

        async def stuck(request: StringValue, context: Any) -> StringValue:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

        kit.does["Inside"] = stuck
        patient = settings.model_copy(update={"drain_seconds": 3600.0})
        running = asyncio.ensure_future(run([kit.service()], patient, verifier=verifier))
        path = socket_of(settings)
        await eventually(path.exists)
        stub = connect(settings.internal_address, Role.SERVICE, tenant="system")
        call = asyncio.ensure_future(_result(stub.Inside(HELLO)))
        await begun.wait()

        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: not path.exists() or running.done())
        assert not running.done()
        os.kill(os.getpid(), signal.SIGTERM)

        async with asyncio.timeout(5):
            await running
        assert (await failure(call)).code is grpc.StatusCode.UNAVAILABLE


async def _result(call: Any) -> Any:
    return await call


class TestMetrics:
    @pytest.fixture
    def settings(self, settings: ServiceSettings) -> ServiceSettings:
        return settings.model_copy(update={"metrics_address": "127.0.0.1:0"})

    async def test_calls_are_counted_by_method_and_code(self, addresses: Addresses, connect: Connect) -> None:
        async def counts() -> dict[str, float]:
            async with httpx.AsyncClient(trust_env=False) as browser:
                page = (await browser.get(f"http://{addresses.metrics}/metrics")).text
            lines = re.findall(r'interlock_rpc_handled_total\{code="(\w+)",method="(\S+)"\} (\S+)', page)
            return {f"{method} {code}": float(count) for code, method, count in lines}

        before = await counts()
        await connect(addresses.public, Role.VIEWER).Echo(HELLO)
        await failure(connect(addresses.public).Echo(HELLO))
        await failure(connect(addresses.public, Role.VIEWER).Inside(HELLO))
        after = await counts()
        changed = {
            name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)
        }
        assert changed == {
            f"/{NAME}/Echo OK": 1,
            f"/{NAME}/Echo UNAUTHENTICATED": 1,
            f"/{NAME}/Inside PERMISSION_DENIED": 1,
        }
