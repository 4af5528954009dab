"""Queues and workers: what waits where, what limits it, who works on it."""

import sys
from typing import TYPE_CHECKING

import click

from interlock.cli import display
from interlock.cli.escaping import one_line
from interlock.cli.session import output_option, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.duration_pb2 import Duration

    from interlock.client.client import Client as _Suite
    from interlock.orchestrator.v1 import queue_service_pb2 as messages

_READ = ("VIEWER",)
_CHANGE = ("ADMIN",)
_LIMITS = (
    click.option("--description", default=None, help="For people."),
    click.option("--max-running", type=int, default=None, help="Tasks that run at a time; 0 = no limit."),
    click.option(
        "--max-running-per-key",
        type=int,
        default=None,
        help="Tasks of one key that run at a time.",
    ),
    click.option("--max-waiting", type=int, default=None, help="Tasks that may wait; 0 = no bound."),
    click.option(
        "--rate",
        default=None,
        metavar="N/SECONDS",
        help="Starts in a time, for example 100/60; 'none' = no limit.",
    ),
    click.option("--burst", type=int, default=0, help="Starts that --rate lets be saved up; by default all."),
)


@click.group()
def queues() -> None:
    """Queues: see, make, limit, pause, purge them."""


@queues.command("list")
@output_option
@click.pass_obj
def list_queues(data_dir: str, *, as_json: bool) -> None:
    """List queues by name."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.orchestrator.v1 import queue_service_pb2 as messages

        found: list[messages.Queue] = []
        token = ""
        async with client(data_dir, *_READ) as suite:
            while True:
                request = messages.ListQueuesRequest(page_size=1000, page_token=token)
                answer = await suite.call(suite.queues.ListQueues, request)
                found += answer.queues
                token = answer.next_page_token
                if not token:
                    break
        if as_json:
            display.emit_json([message_json(queue) for queue in found])
            return
        rows = [
            (queue.name, queue.pool, "PAUSED" if queue.paused else "OPEN", "  ".join(_limits(queue)))
            for queue in found
        ]
        display.emit_table(("QUEUE", "POOL", "STATE", "LIMITS"), rows)

    run(work)


@queues.command("get")
@click.argument("name")
@output_option
@click.pass_obj
def get_queue(data_dir: str, name: str, *, as_json: bool) -> None:
    """Show one queue with what waits and runs in it now."""

    async def ask(suite: "_Suite") -> "messages.Queue":
        from interlock.orchestrator.v1 import queue_service_pb2 as messages

        return (await suite.call(suite.queues.GetQueue, messages.GetQueueRequest(name=name))).queue

    _show(data_dir, _READ, ask, as_json=as_json)


def _with_limits(command: "Callable[..., None]") -> "Callable[..., None]":
    for option in reversed(_LIMITS):
        command = option(command)
    return command


@queues.command("create")
@click.argument("name")
@click.option("--pool", default="", help="Pool of workers that serves it.")
@_with_limits
@output_option
@click.pass_obj
def create_queue(
    data_dir: str, /, name: str, pool: str, *, as_json: bool, **limits: "str | int | None"
) -> None:
    """Make a queue."""

    async def ask(suite: "_Suite") -> "messages.Queue":
        from interlock.orchestrator.v1 import queue_service_pb2 as messages

        queue, _ = _asked(name, limits)
        queue.pool = pool
        return (await suite.call(suite.queues.CreateQueue, messages.CreateQueueRequest(queue=queue))).queue

    _show(data_dir, _CHANGE, ask, as_json=as_json)


@queues.command("update")
@click.argument("name")
@_with_limits
@click.option("--etag", default="", help="Refuse if somebody has changed it since; `get` shows it.")
@output_option
@click.pass_obj
def update_queue(
    data_dir: str, /, name: str, etag: str, *, as_json: bool, **limits: "str | int | None"
) -> None:
    """Change the limits that are given; the others stay."""

    async def ask(suite: "_Suite") -> "messages.Queue":
        from interlock.orchestrator.v1 import queue_service_pb2 as messages

        queue, paths = _asked(name, limits)
        queue.etag = etag
        request = messages.UpdateQueueRequest(queue=queue)
        request.update_mask.paths.extend(paths)
        return (await suite.call(suite.queues.UpdateQueue, request)).queue

    _show(data_dir, _CHANGE, ask, as_json=as_json)


@queues.command("pause")
@click.argument("name")
@output_option
@click.pass_obj
def pause_queue(data_dir: str, name: str, *, as_json: bool) -> None:
    """Start no more of its tasks; what runs runs on."""

    async def ask(suite: "_Suite") -> "messages.Queue":
        from interlock.orchestrator.v1 import queue_service_pb2 as messages

        return (await suite.call(suite.queues.PauseQueue, messages.PauseQueueRequest(name=name))).queue

    _show(data_dir, _CHANGE, ask, as_json=as_json)


@queues.command("resume")
@click.argument("name")
@output_option
@click.pass_obj
def resume_queue(data_dir: str, name: str, *, as_json: bool) -> None:
    """Start its tasks again."""

    async def ask(suite: "_Suite") -> "messages.Queue":
        from interlock.orchestrator.v1 import queue_service_pb2 as messages

        return (await suite.call(suite.queues.ResumeQueue, messages.ResumeQueueRequest(name=name))).queue

    _show(data_dir, _CHANGE, ask, as_json=as_json)


@queues.command("purge")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
@click.pass_obj
def purge_queue(data_dir: str, name: str, *, yes: bool, as_json: bool) -> None:
    """Cancel every task that waits in the queue; what runs runs on."""
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise click.UsageError("nobody is there to be asked: give --yes")
        click.confirm(f"Cancel every task that waits in {name}?", abort=True, err=True)

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.orchestrator.v1 import queue_service_pb2 as messages

        purged, more = 0, True
        async with client(data_dir, *_CHANGE) as suite:
            while more:
                answer = await suite.call(suite.queues.PurgeQueue, messages.PurgeQueueRequest(name=name))
                purged, more = purged + answer.purged, answer.more
        if as_json:
            display.emit_json({"purged": purged})
        else:
            display.emit(f"Canceled {purged} waiting tasks of {name}.")

    run(work)


@queues.command("delete")
@click.argument("name")
@click.option("--etag", default="", help="Refuse if somebody has changed it since; `get` shows it.")
@output_option
@click.pass_obj
def delete_queue(data_dir: str, name: str, etag: str, *, as_json: bool) -> None:
    """Delete a queue whose tasks have all ended."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.orchestrator.v1 import queue_service_pb2 as messages

        async with client(data_dir, *_CHANGE) as suite:
            request = messages.DeleteQueueRequest(name=name, etag=etag)
            await suite.call(suite.queues.DeleteQueue, request)
        if as_json:
            display.emit_json({"deleted": name})
        else:
            display.emit(f"Deleted {name}.")

    run(work)


@click.group(invoke_without_command=True)
@output_option
@click.pass_context
def workers(ctx: click.Context, *, as_json: bool) -> None:
    """Workers that serve the tenant; with drain, resume and end."""
    if ctx.invoked_subcommand is not None:
        return
    data_dir: str = ctx.obj

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json

        async with client(data_dir, *_READ) as suite:
            found = await _all_workers(suite)
        if as_json:
            display.emit_json([message_json(worker) for worker in found])
        else:
            display.emit_table(
                ("SESSION", "WORKER", "STATE", "RUNNING", "POOLS"), [_worker_row(each) for each in found]
            )

    run(work)


@workers.command("drain")
@click.argument("session_id", metavar="SESSION")
@output_option
@click.pass_obj
def drain_worker(data_dir: str, session_id: str, *, as_json: bool) -> None:
    """Have a worker claim nothing more; it ends what it runs and stays up."""

    async def ask(suite: "_Suite") -> "messages.Worker":
        from interlock.orchestrator.v1 import queue_service_pb2 as messages

        request = messages.DrainWorkerRequest(session_id=session_id)
        return (await suite.call(suite.queues.DrainWorker, request)).worker

    _show_worker(data_dir, ask, as_json=as_json)


@workers.command("resume")
@click.argument("session_id", metavar="SESSION")
@output_option
@click.pass_obj
def resume_worker(data_dir: str, session_id: str, *, as_json: bool) -> None:
    """Have a drained worker claim again."""

    async def ask(suite: "_Suite") -> "messages.Worker":
        from interlock.orchestrator.v1 import queue_service_pb2 as messages

        request = messages.ResumeWorkerRequest(session_id=session_id)
        return (await suite.call(suite.queues.ResumeWorker, request)).worker

    _show_worker(data_dir, ask, as_json=as_json)


@workers.command("end")
@click.argument("session_ids", metavar="[SESSION]...", nargs=-1)
@click.option("--silent", is_flag=True, help="Every worker that is SILENT now.")
@output_option
@click.pass_obj
def end_workers(data_dir: str, session_ids: tuple[str, ...], *, silent: bool, as_json: bool) -> None:
    """Take SILENT workers for dead: what they ran runs again at once."""
    if bool(session_ids) == silent:
        raise click.UsageError("name workers, or say --silent")

    async def work() -> "dict[str, int]":
        from interlock.cli.connection import client
        from interlock.orchestrator.v1 import queue_service_pb2 as messages

        async with client(data_dir, *_CHANGE) as suite:
            named = session_ids or tuple(
                worker.session_id
                for worker in await _all_workers(suite)
                if worker.state == messages.WORKER_STATE_SILENT
            )
            tasks = {}
            for session_id in named:
                request = messages.EndWorkerRequest(session_id=session_id)
                tasks[session_id] = (await suite.call(suite.queues.EndWorker, request)).tasks
            return tasks

    ended = run(work)
    if as_json:
        display.emit_json([{"session_id": session_id, "tasks": tasks} for session_id, tasks in ended.items()])
    else:
        display.emit_table(("SESSION", "TASKS"), [(session_id, str(n)) for session_id, n in ended.items()])


async def _all_workers(suite: "_Suite") -> "list[messages.Worker]":
    from interlock.orchestrator.v1 import queue_service_pb2 as messages

    found: list[messages.Worker] = []
    token = ""
    while True:
        request = messages.ListWorkersRequest(page_size=1000, page_token=token)
        answer = await suite.call(suite.queues.ListWorkers, request)
        found += answer.workers
        token = answer.next_page_token
        if not token:
            return found


def _show(
    data_dir: str,
    roles: tuple[str, ...],
    ask: "Callable[[_Suite], Awaitable[messages.Queue]]",
    *,
    as_json: bool,
) -> None:
    async def work() -> "messages.Queue":
        from interlock.cli.connection import client

        async with client(data_dir, *roles) as suite:
            return await ask(suite)

    queue = run(work)
    if as_json:
        from interlock.cli.message_json import message_json

        display.emit_json(message_json(queue))
    else:
        display.emit(_queue_text(queue))


def _show_worker(
    data_dir: str, ask: "Callable[[_Suite], Awaitable[messages.Worker]]", *, as_json: bool
) -> None:
    async def work() -> "messages.Worker":
        from interlock.cli.connection import client

        async with client(data_dir, *_CHANGE) as suite:
            return await ask(suite)

    worker = run(work)
    if as_json:
        from interlock.cli.message_json import message_json

        display.emit_json(message_json(worker))
    else:
        display.emit_table(("SESSION", "WORKER", "STATE", "RUNNING", "POOLS"), [_worker_row(worker)])


def _asked(name: str, limits: "Mapping[str, str | int | None]") -> "tuple[messages.Queue, list[str]]":
    """The queue as asked for, and which of its fields were given."""
    from interlock.orchestrator.v1 import queue_service_pb2 as messages

    queue = messages.Queue(name=name)
    paths = []
    for field in ("description", "max_running", "max_running_per_key", "max_waiting"):
        if limits[field] is not None:
            setattr(queue, field, limits[field])
            paths.append(field)
    rate = limits["rate"]
    if rate is not None:
        paths.append("rate_limit")
        if rate != "none":
            _set_rate(queue, str(rate), int(limits["burst"] or 0))
    return queue, paths


def _set_rate(queue: "messages.Queue", rate: str, burst: int) -> None:
    try:
        count, seconds = rate.split("/")
        queue.rate_limit.count = int(count)
        queue.rate_limit.period.FromNanoseconds(round(float(seconds) * 1e9))
    except (ValueError, OverflowError):
        said = f"{rate!r} is not N/SECONDS, for example 100/60"
        raise click.BadParameter(said, param_hint="--rate") from None
    queue.rate_limit.burst = burst


def _limits(queue: "messages.Queue") -> list[str]:
    lines = []
    if queue.max_running:
        lines.append(f"{queue.max_running} running")
    lines.append(f"{queue.max_running_per_key} per key")
    if queue.max_waiting:
        lines.append(f"{queue.max_waiting} waiting")
    if queue.HasField("rate_limit"):
        rate = queue.rate_limit
        lines.append(f"{rate.count} in {_seconds(rate.period)} (burst {rate.burst})")
    return lines


def _queue_text(queue: "messages.Queue") -> str:
    lines = [
        ("queue", queue.name),
        ("pool", queue.pool),
        ("state", "PAUSED" if queue.paused else "OPEN"),
        ("limits", ", ".join(_limits(queue))),
        ("etag", queue.etag),
    ]
    if queue.description:
        lines.append(("about", one_line(queue.description)))
    if queue.HasField("stats"):
        stats = queue.stats
        lines.append(("waiting", f"{'at least ' if stats.waiting_is_minimum else ''}{stats.waiting}"))
        lines.append(("running", str(stats.running)))
        if stats.HasField("oldest_wait"):
            lines.append(("oldest", _seconds(stats.oldest_wait)))
        lines.append(("ended", f"{stats.ended_last_minute} in the last minute"))
        lines.append(("workers", str(stats.workers)))
    return "\n".join(f"{name:<8} {value}" for name, value in lines)


def _seconds(duration: "Duration") -> str:
    return f"{duration.ToNanoseconds() / 1e9:g} s"


def _worker_row(worker: "messages.Worker") -> tuple[str, ...]:
    from interlock.orchestrator.v1 import queue_service_pb2 as messages

    return (
        worker.session_id,
        one_line(worker.name),
        display.name_of(messages.WorkerState.Name(worker.state), "WORKER_STATE_"),
        f"{worker.running}/{worker.capacity}",
        ", ".join(worker.pools),
    )
