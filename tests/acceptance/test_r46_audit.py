"""R46: everything an agent was given and did stands in a log that outsiders can verify."""

import json
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg
import pytest

from interlock.audit.v1 import audit_service_pb2
from interlock.cli.verification import verify_task
from interlock.client import Client
from interlock.orchestrator.v1 import task_pb2
from interlock.verify import Problem
from tests.acceptance.works import ECHO, RAISES
from tests.e2e.observing import entries_of, full_trail, run
from tests.suite_running import Suite


async def test_R46_1_to_4_the_trail_of_a_task_holds_every_input_call_output_and_error_in_order(
    client: Client,
) -> None:
    good = await full_trail(client, await run(client, ECHO.name, value={"deep": [1]}))
    assert [entry.said[:2] for entry in good if entry.fields["type"] != "STATE_CHANGE"] == [
        ("PROMPT", "SUBMITTED"),
        ("TOOL_CALL", "RUNNING"),
        ("TOOL_RESULT", "COMPLETED"),
        ("RESULT", "COMPLETED"),
    ]
    contents = {entry.fields["type"]: entry.parts for entry in good if entry.parts}
    assert contents == {
        "PROMPT": {"input": {"value": {"deep": [1]}}},
        "TOOL_CALL": {"arguments": {"value": {"deep": [1]}}},
        "TOOL_RESULT": {"result": {"deep": [1]}},
        "RESULT": {"result": {"deep": [1]}},
    }
    bad = await full_trail(client, await run(client, RAISES.name, value=7))
    (result,) = entries_of(bad, "TOOL_RESULT")
    assert result.parts == {"error": {"class": "ValueError", "message": "no use for 7"}}
    (error,) = entries_of(bad, "ERROR")
    assert error.parts == {"error": {"class": "ValueError", "message": "no use for 7"}}
    for kind in ("PROMPT", "TOOL_CALL", "TOOL_RESULT", "ERROR"):
        (entry,) = entries_of(bad, kind)
        assert (entry.fields["agent"], entry.fields["agent_version"]) == (RAISES.name, "1.0.0")
    (call,) = entries_of(bad, "TOOL_CALL")
    assert (call.fields["tool"], call.fields["step"], call.fields["attempt"]) == (RAISES.tool, "s1", 1)


async def test_R46_5_a_trail_is_verified_without_trusting_the_log(client: Client, tmp_path: Path) -> None:
    pins = tmp_path / "pins.json"
    first = await run(client, ECHO.name, value=1)
    entries = len(await full_trail(client, first))
    verified = await verify_task(client, first.task_id, pins)
    assert verified.ok
    assert verified.first_use
    assert (verified.report.entries, verified.report.entries_included) == (entries, entries)
    assert verified.report.parts_matched == 4
    # Later the log has grown, and is proven to hold all that it held before.
    second = await run(client, ECHO.name, value=2)
    await full_trail(client, second)
    again = await verify_task(client, second.task_id, pins)
    assert again.ok
    assert not again.first_use
    assert verified.report.checkpoint is not None
    assert again.report.consistent_from == verified.report.checkpoint.size


@pytest.mark.parametrize("what", ["leaf", "payload"])
async def test_R46_5_tampering_with_the_stored_log_is_detected(
    suite: Suite, client: Client, tmp_path: Path, what: str
) -> None:
    task = await run(client, ECHO.name, value="the truth")
    await full_trail(client, task)
    assert (await verify_task(client, task.task_id, tmp_path / "pins.json")).ok
    with tampered(suite, task, what):
        verified = await verify_task(client, task.task_id, tmp_path / "pins.json")
    assert not verified.ok
    problems = {finding.problem for finding in verified.report.findings}
    assert problems == ({Problem.INCLUSION} if what == "leaf" else {Problem.PAYLOAD})
    assert (await verify_task(client, task.task_id, tmp_path / "pins.json")).ok


@contextmanager
def tampered(suite: Suite, task: task_pb2.Task, what: str) -> Any:
    """Alter what the database holds of a task, as only its administrator can, and put it back."""
    table, column = {"leaf": ("entry", "leaf"), "payload": ("payload", "body")}[what]
    entry = "SELECT event_id FROM entry WHERE task_id = %s AND type = 'TOOL_RESULT'"
    swap = f"UPDATE {table} SET {column} = %s WHERE event_id = %s"  # noqa: S608 - names of our own
    with suite.database("audit") as connection:
        (event_id,) = connection.execute(entry, (task.task_id,)).fetchall()[0]
        read = f"SELECT {column} FROM {table} WHERE event_id = %s"  # noqa: S608 - names of our own
        (true,) = connection.execute(read, (event_id,)).fetchall()[0]
        false = bytes(true).replace(b"COMPLETED", b"cOMPLETED").replace(b"the truth", b"all a lie")
        assert false != true
        connection.execute("SET interlock.change_schema = 'on'")
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only")
        try:
            connection.execute(swap, (false, event_id))
            yield
        finally:
            connection.execute(swap, (true, event_id))
            connection.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only")


async def test_R46_5_the_stored_log_refuses_changes(suite: Suite, client: Client) -> None:
    await full_trail(client, await run(client, ECHO.name, value=1))
    with suite.database("audit") as connection:
        for role in ("audit", None):
            if role is not None:
                connection.execute(f'SET ROLE "{service_role(connection)}"')
            for statement in (
                "UPDATE entry SET status = ''",
                "DELETE FROM entry",
                "TRUNCATE entry",
                "DELETE FROM payload",
                "DELETE FROM checkpoint",
                "UPDATE log_head SET size = size - 1",
                "DROP TABLE payload",
                "ALTER TABLE entry DISABLE TRIGGER ALL",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)
            connection.execute("RESET ROLE")


def service_role(connection: "psycopg.Connection[tuple[Any, ...]]") -> str:
    """The role under which the audit service works: it may add entries and does not own them."""
    found = connection.execute(
        "SELECT grantee FROM information_schema.role_table_grants WHERE table_name = 'entry'"
        " AND privilege_type = 'INSERT' AND grantee NOT IN"
        " (SELECT tableowner FROM pg_tables WHERE tablename = 'entry')"
    ).fetchall()
    ((role,),) = set(found)
    return str(role)


async def test_R46_6_the_trail_of_a_task_is_found_by_an_index(suite: Suite, client: Client) -> None:
    task = await run(client, ECHO.name, value=1)
    other = await run(client, ECHO.name, value=2)
    recorded = await full_trail(client, task)
    assert {entry.fields["task"] for entry in recorded} == {task.task_id}
    assert other.task_id not in json.dumps([entry.fields for entry in recorded])
    request = audit_service_pb2.GetAuditTrailRequest(task_id=task.task_id, page_size=2)
    pages = []
    while True:
        page = await client.call(client.audit.GetAuditTrail, request)
        pages.append([entry.event_id for entry in page.entries])
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert sorted(chain.from_iterable(pages)) == sorted(entry.fields["id"] for entry in recorded)
    assert {len(page) for page in pages[:-1]} == {2}
    with suite.database("audit") as connection:
        connection.execute("SET enable_seqscan = off")
        plan = connection.execute(
            "EXPLAIN SELECT leaf FROM entry WHERE log_id = (SELECT log_id FROM log WHERE tenant = 'default')"
            " AND task_id = %s ORDER BY leaf_index LIMIT 200",
            (task.task_id,),
        ).fetchall()
    assert "entry_by_task" in str(plan)
