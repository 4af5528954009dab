"""A new sandbox from the clone until it waits for its program: every layer is applied here, in order."""

import fcntl
import json
import os
from dataclasses import dataclass
from typing import NoReturn

from interlock_sandbox.frames import FrameKind, encode
from interlock_sandbox.inside import harness, landlock, namespaces, privileges, rootfs, seccomp
from interlock_sandbox.inside.setup_error import SetupError, applying
from interlock_sandbox.inside.syscalls import die_with_parent, set_host_name, syscall
from interlock_sandbox.levels import Layer

CHANNEL = 3
"""The descriptor a sandbox talks to its parent on; 0, 1 and 2 are the usual ones, and there are no others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildPlan:
    """What the zygote knows beforehand about every sandbox it makes."""

    layers: frozenset[Layer]
    clone_flags: int
    uid: int
    gid: int
    """The zygote's ids, which a sandbox's own are mapped to."""
    proc: int
    """Descriptor of a /proc folder in which the sandbox can be found."""
    files: landlock.Ruleset | None
    """None without Landlock."""
    filter: bytes
    """The seccomp filter."""


def become_sandbox(
    plan: ChildPlan, *, disk_bytes: int, descriptors: list[int], baseline: privileges.Baseline
) -> NoReturn:
    """Apply every layer, then run one program; a failure is told to the parent, and nothing runs."""
    try:
        try:
            _apply_layers(plan, disk_bytes, descriptors)
        except SetupError as error:
            # The channel may not have its final number yet.
            os.write(descriptors[0], encode(FrameKind.SETUP_FAILED, json.dumps(error.describe()).encode()))
            os._exit(1)
        harness.serve_one_program(CHANNEL, baseline, bounded=Layer.RLIMITS in plan.layers)
    finally:
        os._exit(1)


def _apply_layers(plan: ChildPlan, disk_bytes: int, descriptors: list[int]) -> None:
    with applying(Layer.NAMESPACES):
        die_with_parent()
        if Layer.NAMESPACES in plan.layers:
            namespaces.write_id_maps(plan.proc, uid=plan.uid, gid=plan.gid)
            os.setresgid(privileges.TOOL_ID, privileges.TOOL_ID, privileges.TOOL_ID)
            os.setresuid(privileges.TOOL_ID, privileges.TOOL_ID, privileges.TOOL_ID)
            set_host_name("sandbox")
    with applying(Layer.ROOT):
        if Layer.ROOT in plan.layers:
            rootfs.mount_private_parts(disk_bytes=disk_bytes)
    _keep_only(descriptors)
    with applying(Layer.CAPABILITIES):
        if Layer.CAPABILITIES in plan.layers:
            privileges.drop_capabilities()
    with applying(Layer.RLIMITS):
        if Layer.RLIMITS in plan.layers:
            privileges.set_standing_limits()
    with applying(Layer.LANDLOCK):  # after the last mount, which it forbids
        if plan.files is not None:
            landlock.restrict_to(plan.files)
    with applying(Layer.SECCOMP):  # last, since it forbids nearly all of the above
        if Layer.SECCOMP in plan.layers:
            seccomp.install(plan.filter)


def _keep_only(descriptors: list[int]) -> None:
    """Leave exactly stdin, stdout, stderr and the channel."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    # First out of the way of their targets, so that no dup2 overwrites one that is still to be moved.
    lifted = [fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, CHANNEL + 1) for source in (null, *descriptors)]
    for source, target in zip(lifted, (0, CHANNEL, 1, 2), strict=True):
        os.dup2(source, target)
    syscall("close_range", CHANNEL + 1, 0x7FFFFFFF, 0)
    descriptors[0] = CHANNEL
    os.setsid()
