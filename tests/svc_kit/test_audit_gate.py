"""New work is refused while too much waits for the audit log, and while nobody knows how much that is."""

import pytest

from interlock.common.v1 import errors_pb2
from svc_kit.audit_gate import AuditGate
from svc_kit.errors import Unavailable
from svc_kit.outbox import Backlog


class Waiting:
    """An outbox in which so many records wait; None: nobody can tell."""

    def __init__(self, count: int | None) -> None:
        self.count = count

    async def __call__(self) -> Backlog:
        if self.count is None:
            raise Unavailable(errors_pb2.ERROR_REASON_DATABASE_UNAVAILABLE, "away")
        return Backlog(count=self.count, oldest_seconds=1.0)


async def test_more_than_the_limit_closes_the_gate_and_less_opens_it() -> None:
    waiting = Waiting(5)
    gate = AuditGate(waiting, limit=5)
    await gate.look()
    gate.check()
    waiting.count = 6
    await gate.look()
    with pytest.raises(Unavailable, match="6 audit records wait") as refused:
        gate.check()
    assert refused.value.reason == errors_pb2.ERROR_REASON_AUDIT_BACKLOG
    assert refused.value.retry_after
    waiting.count = 0
    await gate.look()
    gate.check()


async def test_a_gate_that_never_looked_or_could_not_is_closed() -> None:
    waiting = Waiting(None)
    gate = AuditGate(waiting, limit=5)
    for _ in range(2):
        with pytest.raises(Unavailable, match="is not known"):
            gate.check()
        await gate.open()
    waiting.count = 1
    await gate.open()
    gate.check()


async def test_what_was_known_long_ago_counts_for_nothing() -> None:
    waiting = Waiting(1)
    gate = AuditGate(waiting, limit=5, stale=0.0)
    await gate.look()
    with pytest.raises(Unavailable, match="is not known"):
        gate.check()
