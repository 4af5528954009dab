"""What the control socket can be asked: a token, the status, a restart, the stop."""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from interlock_suite.control import Operation, RefusedRequest
from interlock_suite.process import Process
from svc_kit.identity import LocalIssuer, Role

_DEFAULT_SECONDS = 3600
_LONGEST_SECONDS = 30 * 24 * 3600


class Operations:
    """The operations, by name."""

    def __init__(
        self,
        *,
        issuer: LocalIssuer,
        processes: Mapping[str, Process],
        describe: Callable[[], Mapping[str, Any]],
        ask_to_stop: Callable[[], None],
    ) -> None:
        self._issuer = issuer
        self._processes = processes
        self._describe = describe
        self._ask_to_stop = ask_to_stop

    def table(self) -> Mapping[str, Operation]:
        """Name → operation."""
        return {"token": self.token, "status": self.status, "restart": self.restart, "stop": self.stop}

    async def token(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """`roles`, `tenant`, `subject`, `ttl` (seconds); for workers `pools` ("tenant/pool") → `token`."""
        roles = _roles(request.get("roles", [Role.DEVELOPER]))
        tenant = _text(request, "tenant", "default")
        subject = _text(request, "subject", "operator")
        seconds = _seconds(request.get("ttl", _DEFAULT_SECONDS))
        token = self._issuer.mint(subject, tenant, roles, seconds, _pools(request.get("pools", [])))
        return {"token": token, "expires_at": int(time.time() + seconds)}

    async def status(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """What runs, since when it is ready, and where its doors are."""
        processes = [
            {"name": name, "pid": process.pid, "state": process.state.value, "restarts": process.restarts}
            for name, process in self._processes.items()
        ]
        return {**self._describe(), "pid": os.getpid(), "processes": processes}

    async def restart(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Stop `process` in order and answer when its successor is ready."""
        name = _text(request, "process", "")
        process = self._processes.get(name)
        if process is None:
            raise RefusedRequest(f"`process` must be one of {', '.join(self._processes)}")
        await process.restart()
        return {"process": name, "pid": process.pid}

    async def stop(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin the ordered stop; answers before it is done."""
        self._ask_to_stop()
        return {"stopping": True}


def _text(request: Mapping[str, Any], name: str, default: str) -> str:
    value = request.get(name, default)
    if not isinstance(value, str) or not value:
        raise RefusedRequest(f"`{name}` must be text")
    return value


def _roles(names: object) -> frozenset[Role]:
    if not isinstance(names, list) or not names:
        raise RefusedRequest("`roles` must be a list of role names")
    try:
        roles = frozenset(Role(name) for name in names)
    except ValueError:
        known = ", ".join(role for role in Role if role is not Role.SERVICE)
        raise RefusedRequest(f"`roles` may hold {known}") from None
    if Role.SERVICE in roles:
        raise RefusedRequest("the role SERVICE is for the suite's own services alone")
    return roles


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _LONGEST_SECONDS:
        raise RefusedRequest(f"`ttl` must be a number of seconds, at most {_LONGEST_SECONDS}")
    return float(value)


def _pools(names: object) -> list[tuple[str, str]]:
    if not isinstance(names, list):
        raise RefusedRequest('`pools` must be a list of "tenant/pool"')
    pools = []
    for name in names:
        tenant, slash, pool = str(name).partition("/")
        if not (tenant and slash and pool):
            raise RefusedRequest('`pools` must be a list of "tenant/pool"')
        pools.append((tenant, pool))
    return pools
