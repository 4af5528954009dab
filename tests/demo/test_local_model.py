"""A real language model finishes a task through a real sandboxed tool call, and all of it is in the log.

The model is small and takes the likeliest token: the same question has the same answer on one kind of
processor. It chooses for itself among the calls that its schema allows; what it writes into them is its own.
"""

import json

import pytest

from interlock.orchestrator.v1 import task_pb2
from interlock_suite.demo.model_story import AGENT, CONNECTION, MANIFEST, SENTENCE, TOOL, connect, local_model
from interlock_suite.demo.table_file import examples
from tests.e2e.catalogue import allow
from tests.e2e.observing import COMPLETED, entries_of, full_trail, run, steps
from tests.suite_running import Suite

pytestmark = pytest.mark.model


async def test_a_language_model_has_a_tool_do_its_work_and_every_word_of_it_is_recorded(
    suite: Suite,
) -> None:
    async with local_model() as model, suite.client("SUPER_ADMIN", "AUDITOR") as client:
        await connect(client, CONNECTION, model, AGENT)
        published = suite.cli("agents", "publish", str(examples() / MANIFEST))
        assert published.returncode == 0, published.stderr
        await allow(client, AGENT, TOOL)
        task = await run(client, AGENT, text=SENTENCE)
        assert task.state == COMPLETED, task.error
        done = await steps(client, task.task_id)
        kinds = [step.kind for step in done]
        assert kinds[0] == kinds[-1] == task_pb2.STEP_KIND_MODEL_CALL
        calls = [step for step in done if step.kind == task_pb2.STEP_KIND_TOOL_CALL]
        assert calls
        # The text came through the model, and the number from the tool.
        assert json.loads(calls[0].input_json) == {"text": SENTENCE}
        assert json.loads(task.result_json) == {"words": len(SENTENCE.split())}
        assert task.usage.model_calls == kinds.count(task_pb2.STEP_KIND_MODEL_CALL)
        assert task.usage.output_tokens > 0
        recorded = await full_trail(client, task)
        assert len(entries_of(recorded, "PROMPT")) == 1 + task.usage.model_calls
        assert len(entries_of(recorded, "MODEL_OUTPUT")) == task.usage.model_calls
        assert model.key not in str(recorded)
    verified = suite.cli("audit", "verify", task.task_id)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_the_demo_with_the_model_holds_what_it_claims(suite: Suite) -> None:
    shown = suite.cli("demo", "--model")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for said in ("The suite runs already", "smollm2-135m", "isolation ", "claims of this demo held"):
        assert said in shown.stdout, said
