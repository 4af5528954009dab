"""Pretends to be a host without user namespaces, then does what it is told; run by `test_poor_host`.

In a user namespace of our own, the limit on further ones can be set to zero: from then on the kernel refuses
exactly as it does on a host whose administrator forbids them.
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from interlock_sandbox import IsolationLevel, Sandbox, SandboxUnavailable, ToolProgram, probe
from interlock_sandbox.inside.syscalls import CLONE_NEWUSER, unshare


def forbid_namespaces() -> None:
    """No further user namespace can be made by this process and its children."""
    uid, gid = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


async def main() -> dict[str, object]:
    """What such a host is told, and what it can still do if that is asked for."""
    status = await probe()
    try:
        async with Sandbox(spares=1):
            refusal = ""
    except SandboxUnavailable as error:
        refusal = str(error)
    with tempfile.NamedTemporaryFile() as canary:
        arguments = json.dumps({"canary": canary.name}).encode()
        async with Sandbox(minimum=IsolationLevel.PARTIAL, spares=1) as partial:
            outcome = await partial.run(ToolProgram(source=_ATTEMPTS, arguments_json=arguments))
    return {
        "level": status.level.name,
        "missing": {layer.layer: [layer.reason, layer.remedy] for layer in status.problems},
        "refusal": refusal,
        "ran_at": outcome.level.name,
        "result": json.loads(outcome.result_json or b"null"),
        "error": str(outcome.error),
    }


_ATTEMPTS = """
import os, signal, socket
def run(canary):
    def attempt(action):
        try:
            action()
        except OSError as error:
            return error.errno
        return 0
    return [attempt(lambda: open(canary)), attempt(lambda: open("/tmp/planted", "w")), attempt(socket.socket),
            attempt(os.fork), attempt(lambda: os.kill(os.getppid(), 0)), attempt(lambda: os.listdir("/proc"))]
"""

if __name__ == "__main__":
    forbid_namespaces()
    sys.stdout.write(json.dumps(asyncio.run(main())))
