"""RX.1: what agents do is logged and can be looked into, by those who may, and by nobody else."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from interlock.audit.v1 import audit_service_pb2
from interlock.client import Client, InterlockError
from interlock.orchestrator.v1 import orchestrator_service_pb2
from tests.acceptance.works import APPROVED, ECHO, RAISES
from tests.e2e.catalogue import Work, allow, publish
from tests.e2e.observing import ended, eventually, full_trail, run, submit
from tests.suite_running import Suite


async def test_RX_1_who_acted_is_logged_under_a_name_that_tells_nothing(suite: Suite, client: Client) -> None:
    async with suite.client("SUBMITTER", subject="ada.lovelace@example.org") as ada:
        submitted = await ada.submit(ECHO.name, '{"value":"private words"}')
    task = await client.wait(submitted.task_id)
    assert task.submitter == "ada.lovelace@example.org"
    recorded = await full_trail(client, task)
    assert all(entry.fields["actor"] for entry in recorded)
    leaves = json.dumps([entry.fields for entry in recorded])
    for told in ("lovelace", "example.org", "private words"):
        assert told not in leaves
    (prompt,) = [entry for entry in recorded if entry.fields["type"] == "PROMPT"]
    with suite.database("audit") as connection:
        subjects = connection.execute(
            "SELECT subject FROM actor WHERE pseudonym = %s", (prompt.fields["actor"],)
        ).fetchall()
    assert subjects == [("ada.lovelace@example.org",)]
    # She may be forgotten: what she did stays, and nothing in the log tells who it was.
    erasure = suite.json("audit", "erase", "--actor", "ada.lovelace@example.org", "--reason", "asked to")
    assert erasure["selector"]["actor"] == prompt.fields["actor"]
    with suite.database("audit") as connection:
        assert not connection.execute("SELECT FROM actor WHERE subject LIKE 'ada.%'").fetchall()
    assert await full_trail(client, task) == recorded


async def test_RX_1_contents_are_shown_to_those_with_the_right_alone_and_each_look_is_logged(
    suite: Suite, client: Client
) -> None:
    task = await run(client, ECHO.name, value="private words")
    await full_trail(client, task)
    request = audit_service_pb2.GetAuditTrailRequest(task_id=task.task_id)
    async with suite.client("VIEWER") as viewer:
        before = looks(suite)
        bare = await viewer.call(viewer.audit.GetAuditTrail, request)
        assert not any(part.body or part.salt for entry in bare.entries for part in entry.payloads)
        assert looks(suite) == before
        request.include_payloads = True
        with pytest.raises(InterlockError) as refused:
            await viewer.call(viewer.audit.GetAuditTrail, request)
        assert (refused.value.code.name, refused.value.reason) == ("PERMISSION_DENIED", "ROLE_REQUIRED")
        steps = orchestrator_service_pb2.ListTaskStepsRequest(task_id=task.task_id, include_payloads=True)
        with pytest.raises(InterlockError) as refused:
            await viewer.call(viewer.tasks.ListTaskSteps, steps)
        assert refused.value.reason == "ROLE_REQUIRED"
    async with suite.client("AUDITOR") as auditor:
        with pytest.raises(InterlockError) as refused:
            await auditor.call(auditor.audit.GetAuditTrail, request)
        assert [violation.field for violation in refused.value.violations] == ["reason"]
        request.reason = "complaint 17"
        full = await auditor.call(auditor.audit.GetAuditTrail, request)
    assert b"private words" in b"".join(part.body for entry in full.entries for part in entry.payloads)
    assert looks(suite) == before + 1


def looks(suite: Suite) -> int:
    """How often the log says that contents were read."""
    with suite.database("audit") as connection:
        ((count,),) = connection.execute("SELECT count(*) FROM entry WHERE type = 'PAYLOAD_READ'").fetchall()
    return int(count)


async def test_RX_1_a_tenant_sees_nothing_of_another(suite: Suite, client: Client) -> None:
    task = await run(client, ECHO.name, value=1)
    await full_trail(client, task)
    async with suite.client("SUPER_ADMIN", "AUDITOR", tenant="elsewhere") as stranger:
        with pytest.raises(InterlockError) as refused:
            await stranger.get(task.task_id)
        assert refused.value.reason == "TASK_NOT_FOUND"
        with pytest.raises(InterlockError) as refused:
            await stranger.submit(ECHO.name, '{"value":1}')
        assert refused.value.reason == "AGENT_NOT_FOUND"
        listed = await stranger.call(stranger.tasks.ListTasks, orchestrator_service_pb2.ListTasksRequest())
        assert not listed.tasks
        request = audit_service_pb2.GetAuditTrailRequest(task_id=task.task_id)
        assert not (await stranger.call(stranger.audit.GetAuditTrail, request)).entries
    checkpoints = {await log_of(suite, tenant) for tenant in ("default", "elsewhere")}
    assert len(checkpoints) == 2


async def log_of(suite: Suite, tenant: str) -> str:
    """The origin of a tenant's log."""
    async with suite.client("AUDITOR", tenant=tenant) as auditor:
        request = audit_service_pb2.GetCheckpointRequest()
        answer = await eventually(lambda: auditor.call(auditor.audit.GetCheckpoint, request))
    return str(answer.checkpoint.origin)


_SAID = {
    ("PROMPT", "input"),
    ("TOOL_CALL", "arguments"),
    ("TOOL_RESULT", "result"),
    ("TOOL_RESULT", "error"),
    ("RESULT", "result"),
    ("ERROR", "error"),
    ("APPROVAL", "decision"),
    ("REGISTRY_CHANGE", "change"),
    ("POLICY_CHANGE", "change"),
    ("HOLD", "reason"),
    ("PAYLOAD_READ", "reason"),
    ("PAYLOAD_READ", "search"),
    ("ERASURE", "reason"),
}


async def test_RX_1_whatever_was_said_is_in_the_log_as_content_and_nothing_of_it_in_a_leaf(
    suite: Suite, client: Client
) -> None:
    """One word, in everything that people, agents and tools say."""
    word = "halcyon"
    other = Work(name="acc-other", source=f"# {word}\n{ECHO.source}", arguments=("value",), allowed=False)
    await publish(suite, [other])
    await allow(client, other.name, other.tool, when=f'context.arguments.value != "{word}"')
    echoed = await run(client, ECHO.name, value=f"a {word} day")
    failed = await run(client, RAISES.name, value=word)
    await approved(suite, client, value=word, reason=f"{word} too")
    for task in (echoed, failed):
        await full_trail(client, task)
    hold = suite.json("audit", "hold", "place", "--task", echoed.task_id, "--reason", word)
    suite.json("audit", "hold", "release", hold["hold_id"], "--reason", word)
    suite.json("audit", "search", "--text", word, "--reason", word)
    erased = await run(client, ECHO.name, value="nothing")
    suite.json("audit", "erase", "--task", erased.task_id, "--reason", f"{word} asked for it")

    async def everything() -> bool:
        return await asyncio.to_thread(lambda: said_of(suite, word) >= _SAID)

    try:
        await eventually(everything, seconds=20)
    except AssertionError:
        assert said_of(suite, word) >= _SAID
    with suite.database("audit") as connection:
        leaves = connection.execute(
            "SELECT leaf_index, type FROM entry WHERE convert_from(leaf, 'UTF8') ILIKE %s", [f"%{word}%"]
        ).fetchall()
        # Nor does anything by which it could be guessed: what leaves say of contents is salted.
        guessable = connection.execute(
            "SELECT DISTINCT entry.type, told.part FROM entry,"
            " (SELECT part, encode(sha256(body), 'hex') AS digest FROM payload"
            " WHERE position(convert_to(%s, 'UTF8') IN body) > 0) AS told"
            " WHERE position(told.digest IN convert_from(leaf, 'UTF8')) > 0",
            [word],
        ).fetchall()
    assert (leaves, guessable) == ([], [])


async def approved(suite: Suite, client: Client, *, value: str, reason: str) -> None:
    """A task whose call waits for a person, who says yes and why."""
    suite.json("allow", APPROVED.name, APPROVED.tool, "--approve", "DEVELOPER")
    task_id = await submit(client, APPROVED.name, value=value)

    async def waiting() -> str:
        listed = await asyncio.to_thread(suite.json, "approvals", "list")
        return next((each["approval_id"] for each in listed if each["task_id"] == task_id), "")

    suite.json("approve", await eventually(waiting), "--reason", reason)
    (task,) = await ended(client, task_id)
    await full_trail(client, task)


def said_of(suite: Suite, word: str) -> set[tuple[str, str]]:
    """Types of entries, and names of their contents, that have a word."""
    with suite.database("audit") as connection:
        found = connection.execute(
            "SELECT DISTINCT type, part FROM payload JOIN entry USING (log_id, event_id)"
            " WHERE position(convert_to(%s, 'UTF8') IN body) > 0",
            [word],
        ).fetchall()
    return {(kind, part) for kind, part in found}


async def test_RX_1_what_is_erased_is_gone_everywhere_and_the_log_still_proves_itself(
    suite: Suite, client: Client
) -> None:
    secret = "mrs-canary-of-bird-street"
    keys: dict[str, Any] = {"labels": {"patient": secret}, "fairness_key": secret, "concurrency_key": secret}
    keyed = [await client.submit(RAISES.name, json.dumps({"value": secret}), **keys) for _ in range(2)]
    failed, again = await ended(client, *(each.task_id for each in keyed))
    large = await run(client, ECHO.name, value=[secret, "x" * 300_000])
    for task in (failed, again, large):
        await full_trail(client, task)
    await eventually(lambda: asyncio.to_thread(found_by_words, suite))
    for service in _SERVICES:
        with suite.database(service) as connection:
            connection.execute("ANALYZE")
            connection.execute("CHECKPOINT")
    assert "orchestrator.task.fairness_key" in sampled(suite, secret)
    # What the test looks for is there to be found: in rows, and in the files under them.
    kept = tables_with(suite, secret)
    assert {
        "task",
        "task_step",
        "task_event",
        "attempt",
        "blob",
        "tool_call",
        "payload",
        "payload_text",
    } <= kept
    assert audit_files_with(suite, secret)

    done = [
        suite.json("audit", "erase", "--task", task.task_id, "--reason", "asked by herself")
        for task in (failed, again, large)
    ]
    assert [erasure["state"] for erasure in done] == ["ERASURE_STATE_COMPLETE"] * 3
    reached = {f"{each['service']}.{each['table']}" for erasure in done for each in erasure["reached"]}
    assert {"orchestrator.task", "orchestrator.blob", "gateway.tool_call", "audit.payload"} <= reached
    with suite.database("audit") as connection:
        connection.execute("CHECKPOINT")
    assert tables_with(suite, secret) == set()
    assert sampled(suite, secret) == set()
    assert audit_files_with(suite, secret) == []
    assert not found_by_words(suite)

    read = await client.get(failed.task_id)
    assert read.HasField("erase_time") and read.state == failed.state
    assert (read.input_json, read.error.message, read.attempts[0].error.message) == ("{}", "", "")
    with pytest.raises(InterlockError) as refused:
        await client.retry(failed.task_id)
    assert "was erased" in str(refused.value)
    assert suite.json("audit", "verify", failed.task_id)["verified"] is True
    checked = suite.json("audit", "check-log")
    assert checked["ok"] is True and checked["findings"] == []
    told = [entry.fields for entry in await full_trail(client, read) if entry.fields["type"] == "ERASURE"]
    assert [fields["attributes"]["erasure_id"] for fields in told] == [done[0]["erasure_id"]]


def found_by_words(suite: Suite) -> bool:
    """Whether a search for words of it finds entries; the log keeps what was searched for as it was asked."""
    return bool(suite.json("audit", "search", "--text", "canary bird street", "--reason", "a test"))


_SERVICES = ("orchestrator", "gateway", "audit", "registry")


def tables_with(suite: Suite, words: str) -> set[str]:
    """Tables in which these words stand, as text or as bytes."""
    found = set()
    pattern = f"%({words}|{words.encode().hex()})%"
    for service in _SERVICES:
        with suite.database(service) as connection:
            names = connection.execute(
                "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
                " AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
            ).fetchall()
            for (name,) in names:
                statement = sql.SQL("SELECT FROM {} AS each WHERE each::text SIMILAR TO {} LIMIT 1")
                if connection.execute(statement.format(sql.Identifier(name), pattern)).fetchall():
                    found.add(name)
    return found


def sampled(suite: Suite, words: str) -> set[str]:
    """Columns of which the planner's statistics hold these words; they outlive the rows."""
    told = set()
    for service in _SERVICES:
        with suite.database(service) as connection:
            told |= {
                f"{service}.{table}.{column}"
                for table, column in connection.execute(
                    "SELECT tablename, attname FROM pg_stats WHERE schemaname = 'public' AND EXISTS (SELECT"
                    " FROM unnest(ARRAY[most_common_vals::text, histogram_bounds::text,"
                    " most_common_elems::text]) AS said"
                    " WHERE said LIKE %(words)s OR said LIKE %(bytes)s)",
                    {"words": f"%{words}%", "bytes": f"%{words.encode().hex()}%"},
                ).fetchall()
            }
    return told


def audit_files_with(suite: Suite, words: str) -> list[str]:
    """Files of the audit database in which these bytes stand, by what they belong to."""
    with suite.database("audit") as connection:
        ((folder,),) = connection.execute(
            "SELECT current_setting('data_directory') || '/base/' || oid FROM pg_database"
            " WHERE datname = current_database()"
        ).fetchall()
        names = {
            str(node): name
            for node, name in connection.execute(
                "SELECT pg_relation_filenode(oid), oid::regclass::text FROM pg_class"
                " WHERE relkind IN ('r', 'i', 't', 'm')"
            ).fetchall()
        }
    return [
        names.get(file.name, file.name)
        for file in Path(folder).iterdir()
        if words.encode() in file.read_bytes()
    ]
