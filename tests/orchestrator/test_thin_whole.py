"""One task from submit to its audit trail."""

import json

from interlock.audit.v1 import entry_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2
from tests.orchestrator.peers import AGENT, payload
from tests.orchestrator.world import World


async def test_a_task_goes_from_submit_through_its_steps_to_a_result_and_everybody_sees_it(
    world: World,
) -> None:
    task = await world.submit(task_type="report", labels={"team": "data"})
    watch = world.people().WatchTask(messages.WatchTaskRequest(task_id=task.task_id))
    assert (await anext(aiter(watch))).snapshot.state == task_pb2.TASK_STATE_SUBMITTED

    worker = world.worker()
    async with worker.session() as session:
        claimed = await worker.must_claim(session)
        assert (claimed.task_id, claimed.agent, claimed.attempt) == (task.task_id, AGENT, 1)
        assert json.loads(claimed.input_json) == {"path": "a.csv"}
        begun = await worker.begin(claimed)
        await worker.complete(claimed, {"rows": 3}, finish=worker.finished(begun, {"lines": [1, 2, 3]}))

    events = [message.event async for message in watch if message.HasField("event")]
    assert [(event.revision, event.type, event.state) for event in events] == [
        (2, task_pb2.EVENT_TYPE_STATE_CHANGED, task_pb2.TASK_STATE_RUNNING),
        (3, task_pb2.EVENT_TYPE_STEP_STARTED, task_pb2.TASK_STATE_RUNNING),
        (4, task_pb2.EVENT_TYPE_STEP_FINISHED, task_pb2.TASK_STATE_RUNNING),
        (5, task_pb2.EVENT_TYPE_STATE_CHANGED, task_pb2.TASK_STATE_COMPLETED),
    ]
    stored = await world.get(task.task_id)
    assert json.loads(stored.result_json) == {"rows": 3}
    assert stored.input["path"] == "a.csv"
    assert [attempt.outcome for attempt in stored.attempts] == ["COMPLETED"]
    assert stored.isolation == "PLAN" and stored.labels == {"team": "data"}

    trail = await world.peers.audit.of_task(task.task_id, 5)
    assert [(event.type, event.status) for event in trail] == [
        (entry_pb2.ENTRY_TYPE_PROMPT, "SUBMITTED"),
        (entry_pb2.ENTRY_TYPE_STATE_CHANGE, "SUBMITTED"),
        (entry_pb2.ENTRY_TYPE_STATE_CHANGE, "RUNNING"),
        (entry_pb2.ENTRY_TYPE_STATE_CHANGE, "COMPLETED"),
        (entry_pb2.ENTRY_TYPE_RESULT, "COMPLETED"),
    ]
    assert payload(trail[0], "input") == {"path": "a.csv"}
    assert payload(trail[4], "result") == {"rows": 3}
    assert trail[0].actor == "ada@example.org" and trail[2].actor == "worker-1"
