"""From a layer that could not be applied to what the operator of this host should do."""

import errno
from dataclasses import dataclass
from pathlib import Path

from interlock_sandbox.levels import Layer


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """The switches of this host that decide about sandboxes; None where the host has no such switch."""

    unprivileged_userns_clone: int | None = None
    apparmor_restrict_unprivileged_userns: int | None = None
    max_user_namespaces: int | None = None
    in_container: bool = False

    @classmethod
    def read(cls) -> "HostFacts":
        """Those of the host we are on."""
        return cls(
            unprivileged_userns_clone=_number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restrict_unprivileged_userns=_number(
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
            ),
            max_user_namespaces=_number("/proc/sys/user/max_user_namespaces"),
            in_container=any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")),
        )


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


_CONTAINER = (
    "start the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined (the sandbox brings a stricter filter of its own)"
)
_LANDLOCK = (
    "run Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK=y, "
    "and name landlock in the kernel's lsm= boot parameter"
)
_CGROUPS = (
    "run the service as root, or, where systemd has control groups of version 2, with "
    "Delegate=memory pids cpu and DelegateSubgroup=service; without them memory, processes and CPU are "
    "bounded process by process"
)
_SECCOMP = "run a kernel with CONFIG_SECCOMP_FILTER=y on x86_64 or aarch64"
_READABLE = "use a Python that this user may read, for example the distribution's /usr/bin/python3"


def remedy_for(layer: Layer, code: int, host: HostFacts) -> str:  # noqa: PLR0911  one table
    """One instruction, as exact as the facts allow."""
    match layer:
        case Layer.NAMESPACES | Layer.NETWORK:
            return _for_namespaces(code, host)
        case Layer.ROOT if code == errno.EACCES:
            return _READABLE
        case Layer.ROOT:
            return _CONTAINER if host.in_container else _for_namespaces(code, host)
        case Layer.LANDLOCK:
            return _CONTAINER if host.in_container and code == errno.EPERM else _LANDLOCK
        case Layer.SECCOMP:
            return _SECCOMP
        case Layer.CGROUPS:
            return _CGROUPS
        case Layer.CAPABILITIES | Layer.RLIMITS:
            return _CONTAINER if host.in_container else "report this host: these layers need no support"


def _for_namespaces(code: int, host: HostFacts) -> str:
    if host.unprivileged_userns_clone == 0:
        return "as root: sysctl -w kernel.unprivileged_userns_clone=1"
    if host.max_user_namespaces == 0 or code in (errno.ENOSPC, errno.EUSERS):
        return "as root: sysctl -w user.max_user_namespaces=15000"
    if host.apparmor_restrict_unprivileged_userns == 1:
        return "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    if code in (errno.ENOSYS, errno.EINVAL):
        return "run a kernel with CONFIG_USER_NS=y, CONFIG_PID_NS=y and CONFIG_NET_NS=y"
    return _CONTAINER
