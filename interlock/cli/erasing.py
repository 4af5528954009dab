"""Erasing what was written: begin an erasure, follow it to its end, see those there are."""

import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from interlock.cli import display
from interlock.cli.session import output_option, run

if TYPE_CHECKING:
    from interlock.audit.v1 import erasure_service_pb2 as messages
    from interlock.client import Client

_ROLES = ("ADMIN",)
_POLL_SECONDS = 0.2


@click.command()
@click.option("--task", "task_id", default="", help="All contents of this task, in every service.")
@click.option("--event", "event_id", default="", help="The contents of this entry of the log.")
@click.option("--part", default="", help="With --event: this content alone.")
@click.option("--actor", default="", help="The name behind the pseudonym that entries of this subject have.")
@click.option("--reason", required=True, help="Why. The log keeps it.")
@click.option("--no-wait", is_flag=True, help="Return as soon as it is begun.")
@output_option
@click.pass_obj
def erase(data_dir: str, /, *, no_wait: bool, as_json: bool, **asked: str) -> None:
    """Erase what was written in a task or an entry, or who somebody was, for good. All proofs stay valid.

    Waits until it is complete; interrupted, it goes on without you: interlock audit erasures.
    """

    async def work() -> None:
        from interlock.audit.v1 import erasure_service_pb2 as messages
        from interlock.cli.connection import client

        selector = messages.ErasureSelector(
            task_id=asked["task_id"],
            event_id=asked["event_id"],
            part=asked["part"],
            actor=asked["actor"],
        )
        request = messages.ErasePayloadRequest(
            selector=selector, reason=asked["reason"], request_id=str(uuid.uuid4())
        )
        async with client(data_dir, *_ROLES) as suite:
            begun = (await suite.call(suite.erasures.ErasePayload, request)).erasure
            if not as_json:
                display.emit(f"erasure {begun.erasure_id}")
            if not no_wait:
                begun = await _completed(suite, begun, tell=None if as_json else display.emit)
        _show(begun, as_json=as_json)

    run(work)


@click.command()
@click.argument("erasure_id", default="")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most.")
@output_option
@click.pass_obj
def erasures(data_dir: str, erasure_id: str, limit: int, *, as_json: bool) -> None:
    """List erasures, the newest first; with ERASURE_ID show what one has reached."""

    async def work() -> None:
        from interlock.audit.v1 import erasure_service_pb2 as messages
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json

        async with client(data_dir, *_ROLES) as suite:
            if erasure_id:
                request = messages.GetErasureRequest(erasure_id=erasure_id)
                _show((await suite.call(suite.erasures.GetErasure, request)).erasure, as_json=as_json)
                return
            page = messages.ListErasuresRequest(page_size=limit)
            found = (await suite.call(suite.erasures.ListErasures, page)).erasures
        if as_json:
            display.emit_json([message_json(each) for each in found])
            return
        rows = [
            (each.erasure_id, _state(each), _what(each.selector), each.requester, each.waiting_for)
            for each in found
        ]
        display.emit_table(("ERASURE", "STATE", "OF", "ASKED BY", "WAITING FOR"), rows)

    run(work)


async def _completed(
    suite: "Client", erasure: "messages.Erasure", *, tell: Callable[[str], None] | None
) -> "messages.Erasure":
    """Wait until it is complete; tell what it waits for, each thing once."""
    import asyncio

    from interlock.audit.v1 import erasure_service_pb2 as messages

    waiting_for = ""
    while erasure.state != messages.ERASURE_STATE_COMPLETE:
        if tell is not None and erasure.waiting_for not in ("", waiting_for):
            waiting_for = erasure.waiting_for
            tell(f"waits: {waiting_for}")
        await asyncio.sleep(_POLL_SECONDS)
        request = messages.GetErasureRequest(erasure_id=erasure.erasure_id)
        erasure = (await suite.call(suite.erasures.GetErasure, request)).erasure
    return erasure


def _show(erasure: "messages.Erasure", *, as_json: bool) -> None:
    from interlock.cli.message_json import message_json

    if as_json:
        display.emit_json(message_json(erasure))
        return
    for line in _lines(erasure):
        display.emit(line)


def _lines(erasure: "messages.Erasure") -> Iterator[str]:
    yield f"{_state(erasure)}  {_what(erasure.selector)}"
    if erasure.waiting_for:
        yield f"  waits: {erasure.waiting_for}"
    for table in erasure.reached:
        yield f"  {table.service:<13}{table.table:<14}{table.rows:>8,} rows"
    if erasure.explained_by:
        yield f"  told by the log at {', '.join(f'#{index}' for index in erasure.explained_by)}"


def _state(erasure: "messages.Erasure") -> str:
    from interlock.audit.v1 import erasure_service_pb2 as messages

    return messages.ErasureState.Name(erasure.state).removeprefix("ERASURE_STATE_")


def _what(selector: "messages.ErasureSelector") -> str:
    if selector.task_id:
        return f"task {selector.task_id}"
    if selector.actor:
        return f"name of {selector.actor}"
    return f"entry {selector.event_id}" + (f", {selector.part}" if selector.part else "")
