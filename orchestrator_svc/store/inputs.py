"""What tasks ask of people, and what they are answered."""

import uuid

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from orchestrator_svc.records import Answer, StoredInput
from orchestrator_svc.store.attempts import AttemptStore
from orchestrator_svc.store.rows import to_input

_OF_TASK = sa.text(
    "SELECT * FROM task_input WHERE tenant = :tenant AND task_id = :task_id"
    " AND (input_id = :input_id OR :input_id = '') ORDER BY request_time, input_id"
)
_ANSWER = sa.text(
    "INSERT INTO task_input (task_id, input_id, tenant, step_key, prompt, schema, attempt, answer,"
    " answered_by, answer_time, decided) VALUES (:task_id, :input_id, :tenant, '', '', '', 0, :answer,"
    " :subject, clock_timestamp(), :decided)"
    " ON CONFLICT (task_id, input_id) DO UPDATE SET answer = excluded.answer,"
    " answered_by = excluded.answered_by, answer_time = excluded.answer_time, decided = excluded.decided"
)
_UNASKED = sa.text("SELECT count(*) FROM task_input WHERE task_id = :task_id AND kind IS NULL")


class InputStore(AttemptStore):
    """Requests for input, on the transaction in which their task is locked."""

    async def of_task(
        self, connection: AsyncConnection, tenant: str, task_id: uuid.UUID, input_id: str
    ) -> list[StoredInput]:
        """The request of this id, or every one where the id is empty, oldest first."""
        parameters = {"tenant": tenant, "task_id": task_id, "input_id": input_id}
        return [to_input(row) for row in (await connection.execute(_OF_TASK, parameters)).all()]

    async def unasked(self, connection: AsyncConnection, task_id: uuid.UUID) -> int:
        """How many answers have come that nobody has asked for yet."""
        count: int = (await connection.execute(_UNASKED, {"task_id": task_id})).scalar_one()
        return count

    async def answer(
        self, connection: AsyncConnection, tenant: str, task_id: uuid.UUID, input_id: str, answer: Answer
    ) -> None:
        """Keep the answer, whether the request has come or not, in place of the one that it has."""
        parameters = {
            "tenant": tenant,
            "task_id": task_id,
            "input_id": input_id,
            "answer": answer.json,
            "subject": answer.subject,
            "decided": answer.decided,
        }
        await connection.execute(_ANSWER, parameters)
