"""How a server listens: limits, TLS, and which addresses it refuses."""

from pathlib import Path

import grpc

from interlock.common.addresses import Address, parse_address
from svc_kit.identity.verifier import TokenVerifier
from svc_kit.settings import ServiceSettings

_MESSAGE_SLACK = 64 * 1024  # a payload at its cap still needs room for the fields around it
_MAX_METADATA_BYTES = 16 * 1024


class BindError(RuntimeError):
    """An address cannot be listened on: it is taken, or not ours."""


def server_options(settings: ServiceSettings) -> list[tuple[str, int]]:
    """Limits and keepalive of a server, as grpc names them."""
    largest = settings.max_message_bytes + _MESSAGE_SLACK
    return [
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", largest),
        ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),
        # Two servers on one port would split the calls between them without a word.
        ("grpc.so_reuseport", 0),
        # A peer that vanished is noticed within 30 s; clients may ask as often as ours do.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 9_000),
    ]


def bind(server: grpc.aio.Server, address: Address, settings: ServiceSettings) -> Address:
    """Listen on `address`; the result has the port that the system chose. BindError if it cannot."""
    credentials = None if address.is_unix else _tls(settings)
    try:
        if credentials is None:
            port = server.add_insecure_port(address.text)
        else:
            port = server.add_secure_port(address.text, credentials)
    except RuntimeError as error:
        raise BindError(f"cannot listen on {address.text}: {error}") from None
    if address.is_unix:
        Path(address.path).chmod(0o600)
    return address.with_port(port)


def _tls(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    authority = settings.tls_client_ca.read_bytes() if settings.tls_client_ca else None
    return grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )


def check_exposure(settings: ServiceSettings, verifier: TokenVerifier) -> None:
    """ValueError if a door would be open to more than it should be."""
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise ValueError("tls_certificate and tls_key belong together")
    if settings.tls_client_ca is not None and settings.tls_certificate is None:
        raise ValueError("tls_client_ca needs tls_certificate and tls_key")
    for text in filter(None, (settings.public_address, settings.internal_address)):
        if parse_address(text).is_local:
            continue
        if settings.tls_certificate is None and not settings.allow_plaintext_beyond_loopback:
            raise ValueError(
                f"{text} can be reached from other machines: set tls_certificate and tls_key, "
                "or allow_plaintext_beyond_loopback if the network encrypts by itself"
            )
        local = [issuer.name for issuer in verifier.issuers.values() if issuer.local]
        if local and not settings.allow_local_issuer_beyond_loopback:
            raise ValueError(
                f"{text} can be reached from other machines, and {local[0]} is meant for one: "
                "configure an issuer of your own, or set allow_local_issuer_beyond_loopback"
            )
