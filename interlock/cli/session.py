"""Which suite a command talks to, and as whom: a token of just the role that the command needs."""

import functools
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from interlock.cli.problems import CliError

Result = TypeVar("Result")

_CONTROL_SECONDS = 10.0
_TOKEN_SECONDS = 900


class Suite:
    """A suite as the command line reaches it: the embedded one's data folder, or what the environment names.

    INTERLOCK_TOKEN replaces the tokens of the embedded suite's own issuer,
    INTERLOCK_{ORCHESTRATOR,REGISTRY,GATEWAY,AUDIT}_ADDRESS the addresses of its context file, and
    INTERLOCK_CA_FILE (PEM) switches TLS on.
    """

    def __init__(self, data_dir: str | os.PathLike[str]) -> None:
        self.data_dir = Path(data_dir)

    @functools.cached_property
    def context(self) -> Mapping[str, Any]:
        """The context file of the running suite. Raises CliError when none runs."""
        try:
            context: dict[str, Any] = json.loads((self.data_dir / "context.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise CliError(f"No suite runs in {self.data_dir}.", self._start) from None
        except PermissionError:
            raise CliError(
                f"The suite in {self.data_dir} belongs to another user.", "Run the command as that user."
            ) from None
        return context

    def address(self, service: str) -> str:
        """Where a service's public door is."""
        named = os.environ.get(f"INTERLOCK_{service.upper()}_ADDRESS")
        if named:
            return named
        addresses = self.context["addresses"]
        if service not in addresses:
            raise CliError(f"The suite in {self.data_dir} has no {service}.", self._start)
        return str(addresses[service])

    def token(self, *roles: str, tenant: str = "default", ttl: float = _TOKEN_SECONDS) -> str:
        """A token with these roles, for the person at this machine."""
        given = os.environ.get("INTERLOCK_TOKEN")
        return given or str(
            self.ask({"op": "token", "roles": list(roles), "tenant": tenant, "ttl": ttl})["token"]
        )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One question to the suite's control socket. Raises CliError."""
        import socket

        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_CONTROL_SECONDS)
            try:
                connection.connect(self.context["control"])
                connection.sendall(json.dumps(request).encode() + b"\n")
                with connection.makefile(encoding="utf-8") as lines:
                    answer: dict[str, Any] = json.loads(lines.readline() or "{}")
            except (OSError, ValueError):
                raise CliError(f"The suite in {self.data_dir} does not answer.", self._start) from None
        if not answer or "error" in answer:
            raise CliError(f"The suite refused: {answer.get('error', 'it hung up')}")
        return answer

    @property
    def _start(self) -> str:
        here = "" if self.data_dir == Path(".interlock") else f" --data-dir {self.data_dir}"
        return f"Start one with: interlock{here} up"


def output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--output text|json`; it receives `as_json`."""
    return click.option(
        "-o",
        "--output",
        "as_json",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        callback=lambda _ctx, _param, value: value == "json",
        help="Text for people, or JSON for programs.",
    )(command)


def run(work: Callable[[], Awaitable[Result]]) -> Result:
    """Run a command's work on a loop; what the services answer becomes a CliError."""
    # Here and not above: `--help` must wait for neither.
    import asyncio

    from interlock.client.errors import InterlockError

    async def main() -> Result:
        return await work()

    try:
        return asyncio.run(main())
    except InterlockError as error:
        raise CliError(
            error.message or error.code.name,
            fix=error.help or _usual_fix(error.reason or error.code.name),
            reason=error.reason or error.code.name,
            violations=[(each.field, each.message) for each in error.violations],
            request_id=error.request_id,
        ) from None


def _usual_fix(reason: str) -> str:
    """What to do about what the services have no advice for."""
    return {
        "UNAVAILABLE": "See what runs, and what stands in the way, with: interlock doctor",
        "DEADLINE_EXCEEDED": "See what runs, and what stands in the way, with: interlock doctor",
        "TASK_NOT_FOUND": "See the tasks with: interlock list",
        "AGENT_NOT_FOUND": "See the agents with: interlock agents list",
        "TOOL_NOT_FOUND": "See the tools with: interlock tools list",
        "TOKEN_EXPIRED": "Get a new token, or unset INTERLOCK_TOKEN to get one from the suite.",
        "TOKEN_INVALID": "Is INTERLOCK_TOKEN a token of this suite? Without it the suite gives one.",
        "ROLE_REQUIRED": "INTERLOCK_TOKEN lacks the role; without it the suite gives a token that has it.",
    }.get(reason, "")
