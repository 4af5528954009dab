"""What must hold after any faults, by the databases, the ledger and the watchers; each answers violations."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from audit_svc.merkle import Frontier
from interlock.audit.v1 import audit_service_pb2
from interlock.client import Client
from interlock.verify import NoteKey
from interlock.verify.checkpoint import open_checkpoint
from interlock.verify.merkle import leaf_hash
from tests.chaos.ledger import Ledger
from tests.chaos.load import TASK_TYPE, Followed, Kind
from tests.e2e.suite import RunningSuite

# Each must find nothing.
_ORCHESTRATOR = {
    "a task is not terminal": "SELECT task_id, state FROM task"
    " WHERE state NOT IN ('COMPLETED', 'FAILED', 'CANCELED')",
    "a task has not exactly one terminal event, its last": "SELECT task_id FROM task LEFT JOIN task_event"
    " USING (task_id) GROUP BY task_id HAVING count(*) FILTER (WHERE task_event.type = 'STATE_CHANGED' AND"
    " task_event.state IN ('COMPLETED', 'FAILED', 'CANCELED')) <> 1 OR max(task_event.revision) FILTER"
    " (WHERE task_event.state IN ('COMPLETED', 'FAILED', 'CANCELED')) <> max(task_event.revision)",
    "revisions have a gap": "SELECT task_id FROM task JOIN task_event USING (task_id) GROUP BY task_id"
    " HAVING count(*) <> max(task.revision) OR min(task_event.revision) <> 1"
    " OR max(task_event.revision) <> max(task.revision)",
    "positions have a gap": "SELECT count(*), min(task_event.position) FROM task_event, log_head"
    " GROUP BY log_head.position HAVING count(*) <> log_head.position OR min(task_event.position) <> 1"
    " OR max(task_event.position) <> log_head.position",
    "positions are not in the order of revisions": "SELECT task_id, revision FROM (SELECT task_id, revision,"
    " position, lag(position) OVER (PARTITION BY task_id ORDER BY revision) AS before FROM task_event) AS e"
    " WHERE before >= position",
    "an ended attempt wrote": "SELECT task_id, revision FROM (SELECT task_id, revision, attempt,"
    " max(attempt) OVER (PARTITION BY task_id ORDER BY revision) AS newest FROM task_event) AS e"
    " WHERE attempt < newest",
    "a step changed after the attempt that it names": "SELECT task_id, step_key FROM task_step"
    " JOIN attempt USING (task_id, attempt) WHERE task_step.end_time > attempt.end_time",
    "attempts are not numbered from 1": "SELECT task_id FROM task LEFT JOIN attempt USING (task_id)"
    " GROUP BY task_id HAVING count(attempt.attempt) <> max(task.attempt)",
    "an attempt has not ended": "SELECT task_id, attempt FROM attempt"
    " WHERE end_time IS NULL OR outcome IS NULL",
    "attempts of a task ran side by side": "SELECT task_id, attempt FROM"
    " (SELECT task_id, attempt, start_time, lag(end_time) OVER (PARTITION BY task_id ORDER BY attempt)"
    " AS before FROM attempt) AS a WHERE start_time < before",
    "the failures of a task are counted wrong": "SELECT task_id FROM task LEFT JOIN attempt USING (task_id)"
    " GROUP BY task_id HAVING max(task.failures) <> count(*) FILTER (WHERE attempt.outcome = 'FAILED')",
    "a task counts more crashes than it lost workers": "SELECT task_id FROM task LEFT JOIN attempt"
    " USING (task_id) GROUP BY task_id HAVING max(task.crashes) > count(*) FILTER"
    " (WHERE attempt.outcome = 'LOST')",
    "the steps of a task are counted wrong": "SELECT task_id FROM task LEFT JOIN task_step USING (task_id)"
    " GROUP BY task_id HAVING max(task.step_count) <> count(task_step.step_key)",
    "a queue ran more than it may": "SELECT name, most FROM (SELECT queue AS name, max(running) AS most FROM"
    " (SELECT queue, sum(change) OVER (PARTITION BY tenant, queue ORDER BY time, change) AS running FROM"
    " (SELECT task_id, start_time AS time, 1 AS change FROM attempt UNION ALL SELECT task_id, end_time, -1"
    " FROM attempt) AS changes JOIN task USING (task_id)) AS r GROUP BY queue) AS q JOIN queue USING (name)"
    " WHERE most > max_running",
    "a terminal task is aboard a worker": "SELECT task_id FROM task WHERE session_id IS NOT NULL",
    "a completed task has an unfinished step": "SELECT task_id, step_key FROM task JOIN task_step"
    " USING (task_id) WHERE state = 'COMPLETED' AND task_step.status <> 'COMPLETED'",
    "an audit record was not delivered": "SELECT seq FROM outbox",
}
_GATEWAY = {
    "a tool call has not ended": "SELECT call_id, status FROM tool_call WHERE end_time IS NULL",
    "an audit record was not delivered": "SELECT seq FROM outbox",
}


def undelivered(suite: RunningSuite) -> int:
    """Audit records of the orchestrator and the gateway that the log has not acknowledged yet."""
    return sum(
        _ask(suite, service, "SELECT count(*) FROM outbox")[0][0] for service in ("orchestrator", "gateway")
    )


def calls_under_way(suite: RunningSuite) -> int:
    """Tool calls without an outcome."""
    ((count,),) = _ask(suite, "gateway", "SELECT count(*) FROM tool_call WHERE end_time IS NULL")
    return int(count)


def of_the_stores(suite: RunningSuite) -> Iterator[str]:
    """What the databases say by themselves."""
    for service, questions in (("orchestrator", _ORCHESTRATOR), ("gateway", _GATEWAY)):
        for violation, query in questions.items():
            found = _ask(suite, service, query)
            if found:
                yield f"{service}: {violation}: {len(found)}, as {found[:3]}"


def of_the_tasks(suite: RunningSuite, followed: Sequence[Followed]) -> Iterator[str]:
    """Every accepted task is there, once, and ended as its kind may end."""
    query = "SELECT task_id::text, state, result, error->>'class', error FROM task WHERE task_type = %s"
    stored = {row[0]: row[1:] for row in _ask(suite, "orchestrator", query, TASK_TYPE)}
    accepted = {each.task_id for each in followed}
    if len(accepted) != len(followed):
        yield "one task was given out for several requests"
    if lost := accepted - stored.keys():
        yield f"{len(lost)} accepted tasks are lost, as {sorted(lost)[:3]}"
    if surplus := stored.keys() - accepted:
        yield f"{len(surplus)} tasks were made that nobody was told of, as {sorted(surplus)[:3]}"
    for each in followed:
        state, result, error_class, error = stored.get(each.task_id, ("", None, None, None))
        if not _may_end_so(each, state, result, error_class):
            yield f"{each.job.kind} task {each.task_id} ended as {state} {result} {error}"


def _may_end_so(followed: Followed, state: str, result: str | None, error_class: str | None) -> bool:
    job = followed.job
    if (state, error_class) == ("FAILED", "POISON"):
        # Three workers were killed while it ran, and it alone was aboard.
        return True
    if job.kind is Kind.CANCELED and state == "CANCELED":
        return True
    if job.kind is Kind.BROKEN:
        return (state, error_class) == ("FAILED", "LookupError")
    if job.kind is Kind.ONCE and (
        state == "CANCELED" or (state, error_class) == ("FAILED", "OUTCOME_UNKNOWN")
    ):
        # Its gateway died while it ran, and nobody will ever know: its watcher gave up then.
        return True
    (value,) = job.task_input.values()
    return state == "COMPLETED" and result is not None and json.loads(result) == value


def of_the_watchers(suite: RunningSuite, followed: Iterable[Followed]) -> Iterator[str]:
    """Each saw one snapshot and then every revision, in order, up to one end."""
    revisions = dict(_ask(suite, "orchestrator", "SELECT task_id::text, revision FROM task"))
    for each in followed:
        first, *more = each.snapshots or [0]
        expected = list(range(first + 1, revisions.get(each.task_id, 0) + 1))
        if more or each.revisions != expected or len(each.ends) != 1:
            yield f"the watcher of {each.task_id} saw {each.snapshots} {each.revisions}, ends {each.ends}"


def of_the_ledger(followed: Iterable[Followed], ledger: Ledger) -> Iterator[str]:
    """No tool that must not run twice did."""
    marks = [each.job.task_input["mark"] for each in followed if each.job.kind is Kind.ONCE]
    for name in marks:
        if ledger.runs(name) > 1:
            yield f"the process {name} ran {ledger.runs(name)} times"
    seen = sum(ledger.runs(name) > 0 for name in marks)
    if seen < len(marks) / 2:
        yield f"the ledger saw {seen} of {len(marks)} processes, which proves nothing"


async def of_the_audit_log(suite: RunningSuite, client: Client) -> Iterator[str]:
    """Everything was recorded, each thing once, and the tree of the records is the one that was signed."""
    leaves = _ask(
        suite,
        "audit",
        "SELECT leaf_index, leaf FROM entry JOIN log USING (log_id) WHERE tenant = 'default'"
        " ORDER BY leaf_index",
    )
    found = list(_of_the_tree(suite, leaves, await _verifier(client)))
    entries = [json.loads(bytes(leaf)) for _, leaf in leaves]
    found += _of_the_sequences(suite)
    found += _of_the_events(suite, entries)
    found += _of_the_calls(suite, entries)
    return iter(found)


async def _verifier(client: Client) -> NoteKey:
    answer = await client.call(client.audit.GetPublicKeys, audit_service_pb2.GetPublicKeysRequest())
    return NoteKey.parse(answer.verifier_key)


def _of_the_tree(suite: RunningSuite, leaves: Sequence[Any], key: NoteKey) -> Iterator[str]:
    if [index for index, _ in leaves] != list(range(len(leaves))):
        yield "the leaves of the log have a gap"
    notes = _ask(
        suite,
        "audit",
        "SELECT note FROM checkpoint JOIN log USING (log_id) WHERE tenant = 'default' ORDER BY size DESC",
    )
    for (note,) in (notes[0], notes[len(notes) // 2]):
        checkpoint = open_checkpoint(note, key=key)
        hashes = (leaf_hash(bytes(leaf)) for _, leaf in leaves[: checkpoint.size])
        if Frontier().extended(hashes).root() != checkpoint.root:
            yield f"the tree of {checkpoint.size} leaves is not the one that was signed"


def _of_the_sequences(suite: RunningSuite) -> Iterator[str]:
    for service in ("orchestrator", "gateway"):
        ((last,),) = _ask(suite, service, "SELECT outbox_seq FROM log_head")
        query = "SELECT producer_sequence FROM entry WHERE producer = %s AND producer_sequence > 0"
        counted = Counter(number for (number,) in _ask(suite, "audit", query, service))
        if sorted(counted) != list(range(1, last + 1)) or set(counted.values()) - {1}:
            yield f"the log has {len(counted)} of the {last} records of the {service}, or some of them twice"


def _of_the_events(suite: RunningSuite, entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    recorded: Counter[tuple[str, str, str]] = Counter(
        (entry["type"], entry.get("task", ""), entry.get("attributes", {}).get("revision", ""))
        for entry in entries
    )
    query = "SELECT task_id::text, revision::text FROM task_event WHERE type = 'STATE_CHANGED'"
    for task_id, revision in _ask(suite, "orchestrator", query):
        times = recorded["STATE_CHANGE", task_id, revision]
        if times != 1:
            yield f"revision {revision} of {task_id} is recorded {times} times"


def _of_the_calls(suite: RunningSuite, entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    begun: defaultdict[str, set[str]] = defaultdict(set)
    ended: defaultdict[str, list[str]] = defaultdict(list)
    withdrawn: set[str] = set()
    for entry in entries:
        call = entry.get("call", "")
        withdrawn.add(entry.get("attributes", {}).get("withdraws", ""))
        if entry["type"] == "TOOL_CALL" and entry.get("status") == "RUNNING":
            begun[call].add(entry["id"])
        elif entry["type"] == "TOOL_RESULT":
            ended[call].append(entry["status"])
    query = "SELECT call_id::text, tool, status FROM tool_call WHERE status <> 'REFUSED'"
    calls = _ask(suite, "gateway", query)
    for call, tool, status in calls:
        starts = len(begun[call] - withdrawn)
        # A gateway that dies before the log has heard of a call leaves an unknown end without a beginning.
        known = [end for end in ended[call] if end != "UNKNOWN"]
        if not len(known) <= starts <= len(ended[call]) or not ended[call]:
            yield f"call {call} ({status}) began {starts} times and ended as {ended[call]}"
        elif tool == "chaos_once" and starts > 1:
            yield f"call {call} of a tool that must not run twice began {starts} times"
        elif ended[call][-1] != status:
            yield f"call {call} is stored as {status} and recorded as {ended[call]}"
    if surplus := {call for call, ids in begun.items() if ids - withdrawn} - {call for call, *_ in calls}:
        yield f"{len(surplus)} recorded calls are not stored, as {sorted(surplus)[:3]}"


def _ask(suite: RunningSuite, service: str, query: str, *values: object) -> list[tuple[Any, ...]]:
    with suite.database(service) as connection:
        return connection.execute(query, values or None).fetchall()
