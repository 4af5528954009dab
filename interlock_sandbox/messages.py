"""Messages between the parent and the zygote: JSON objects, one per packet, some with descriptors."""

import json
import socket
from collections.abc import Mapping, Sequence
from enum import StrEnum

MAX_BYTES = 16 * 1024
MAX_DESCRIPTORS = 3


class Op(StrEnum):
    """What a message is about; the first two go to the zygote, the others come from it."""

    CONFIGURE = "configure"
    """layers: which to apply; packages: a folder, or empty; preload: modules. Sent once, first."""
    SPAWN = "spawn"
    """id, disk_bytes; descriptors: channel, stdout, stderr."""
    READY = "ready"
    """The zygote stands. python: its version."""
    REFUSED = "refused"
    """The zygote could not be built: layer, step, errno."""
    SPAWNED = "spawned"
    """id; descriptor: pidfd."""
    NOT_SPAWNED = "not_spawned"
    """id, step, errno."""
    EXITED = "exited"
    """id, status (as of wait), cpu_seconds, peak_rss_bytes."""


def send(
    sock: socket.socket,
    op: Op,
    fields: Mapping[str, object] | None = None,
    *,
    descriptors: Sequence[int] = (),
) -> None:
    """Send one message; raises OSError if the other side is gone or takes no more."""
    packet = json.dumps({"op": op, **(fields or {})}).encode()
    if descriptors:
        socket.send_fds(sock, [packet], list(descriptors))
    else:
        sock.send(packet)


def receive(sock: socket.socket) -> tuple[dict[str, object], list[int]] | None:
    """The next message and its descriptors; None when the other side is gone."""
    try:
        packet, descriptors, _, _ = socket.recv_fds(sock, MAX_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None
    if not packet:
        return None
    message: dict[str, object] = json.loads(packet)
    return message, descriptors
