"""What producers have numbered and the log has not is told, to the number."""

import asyncio
import random

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_svc import completeness
from audit_svc.completeness import CompletenessReport, CompletenessWatch, Gap, Progress, Received
from audit_svc.completeness_store import CompletenessStore
from interlock.audit.v1 import audit_service_pb2 as messages
from svc_kit.clock import SystemClock
from svc_kit.identity import SYSTEM_TENANT, Role
from tests.audit.conftest import Replica
from tests.audit.events import new_event
from tests.audit.served import Served, append, event, refusal

NOW = SystemClock().now()


class Numbers:
    """A store over one producer's numbers."""

    def __init__(self, numbers: set[int], complete_to: int) -> None:
        self._numbers = sorted(numbers)
        self._complete_to = complete_to

    async def producers(self) -> list[str]:
        return ["p"]

    async def progress(self) -> list[Progress]:
        return [Progress(producer="p", complete_to=self._complete_to)]

    async def received(self, producer: str, *, after: int, limit: int) -> list[Received]:
        return [Received(n, NOW) for n in self._numbers if n > after][:limit]

    async def newest(self, producer: str) -> Received | None:
        return Received(self._numbers[-1], NOW) if self._numbers else None

    async def advance(self, producer: str, complete_to: int) -> None:
        raise AssertionError


@settings(deadline=None)
@given(
    numbers=st.sets(st.integers(1, 60), min_size=1),
    remembered=st.integers(0, 60),
    slice_=st.integers(1, 7),
)
def test_gaps_are_the_numbers_that_are_missing_below_the_highest(
    numbers: set[int], remembered: int, slice_: int
) -> None:
    complete = 0
    while complete + 1 in numbers:
        complete += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completeness, "_SLICE", slice_)
        (found,) = asyncio.run(CompletenessReport(Numbers(numbers, min(remembered, complete))).all())
    missing = set(range(1, max(numbers) + 1)) - numbers
    assert {n for gap in found.gaps for n in range(gap.first, gap.last + 1)} == missing
    assert (found.missing, found.complete_to) == (len(missing), complete)
    assert found.highest == max(numbers)
    assert (found.gap_time is not None) == bool(missing)


async def test_a_gap_is_remembered_until_it_is_filled(replica: Replica) -> None:
    store = CompletenessStore(replica.database)
    report = CompletenessReport(store)
    watch = CompletenessWatch(replica.database, store, report, SystemClock())
    numbers = [n for n in range(1, 400) if n not in (7, 100, 101)]
    random.Random(1).shuffle(numbers)
    # Counted over all tenants, and by each producer for itself.
    events = [new_event(producer="registry", tenant=f"t{n % 3}", producer_sequence=n) for n in numbers]
    events.append(new_event(producer="gateway", producer_sequence=1))
    events.append(new_event(producer="writes-ahead", producer_sequence=0))
    for i in range(0, len(events), 100):
        await replica.log.append_batch(tuple(events[i : i + 100]))
    for _ in range(2):
        gateway, registry = await report.all()
        assert (gateway.producer, gateway.complete_to, gateway.missing) == ("gateway", 1, 0)
        assert (registry.complete_to, registry.highest, registry.missing) == (6, 399, 3)
        assert registry.gaps == (Gap(7, 7), Gap(100, 101)) and registry.gap_time is not None
        await watch.look()
    for n in (7, 100, 101):
        await replica.log.append(new_event(producer="registry", producer_sequence=n))
    await watch.look()
    assert await store.progress() == [
        Progress(producer="gateway", complete_to=1),
        Progress(producer="registry", complete_to=399),
    ]
    assert [each.missing for each in await report.all()] == [0, 0]


async def test_a_tenant_learns_whether_something_is_missing_and_the_system_what(audit: Served) -> None:
    async with audit.producer("registry") as producer:
        for n in (1, 2, 5):
            await append(producer, event(producer_sequence=n))
    async with audit.reader(Role.AUDITOR, tenant=SYSTEM_TENANT) as stub:
        (told,) = (await stub.GetCompleteness(messages.GetCompletenessRequest())).producers
    assert (told.producer, told.complete_to, told.highest, told.missing) == ("registry", 2, 5, 2)
    assert [(gap.first, gap.last) for gap in told.gaps] == [(3, 4)] and told.HasField("gap_time")
    async with audit.reader(Role.ADMIN) as stub:
        (told,) = (await stub.GetCompleteness(messages.GetCompletenessRequest())).producers
    assert (told.complete_to, told.highest, len(told.gaps)) == (0, 0, 0)
    assert told.missing == 2 and told.HasField("last_time")
    async with audit.reader(Role.VIEWER) as stub:
        refused = await refusal(stub.GetCompleteness(messages.GetCompletenessRequest()))
    assert refused.code is grpc.StatusCode.PERMISSION_DENIED
