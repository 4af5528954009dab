"""Pretends to be a kernel without Landlock, then says what isolation there is; run by `test_older_kernel`."""

import asyncio
import errno
import json
import struct
import sys

from interlock_sandbox import probe
from interlock_sandbox.inside import seccomp
from interlock_sandbox.inside.syscalls import PR_SET_NO_NEW_PRIVS, prctl

LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
CREATE_RULESET = 444  # on every architecture


def forget_landlock() -> None:
    """From here on the kernel answers as if it had never heard of it, to this process and its children."""
    instructions = [
        (LOAD, 0, 0, 0),
        (JUMP_EQUAL, 0, 1, CREATE_RULESET),
        (RETURN, 0, 0, seccomp.ERRNO | errno.ENOSYS),
        (RETURN, 0, 0, seccomp.ALLOW),
    ]
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(b"".join(struct.pack("=HBBI", *each) for each in instructions))


def main() -> None:
    """Print what the probe finds."""
    forget_landlock()
    status = asyncio.run(probe())
    missing = {layer.layer: [layer.reason, layer.remedy] for layer in status.problems}
    sys.stdout.write(json.dumps({"level": status.level.name, "missing": missing}))


if __name__ == "__main__":
    main()
