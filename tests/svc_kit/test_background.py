"""Loops beside a block: none of them dies in silence."""

import asyncio

import pytest
from structlog.testing import capture_logs

from interlock.common.cancellation import end
from svc_kit import background as module
from svc_kit.background import background


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(module, "LAST_PAUSE_SECONDS", 0.01)


class Faulty:
    """A loop that goes wrong twice and then runs for ever."""

    def __init__(self, fault: BaseException | None) -> None:
        self.began = 0
        self.cancelled = False
        self.well = asyncio.Event()
        self._fault = fault

    async def run(self) -> None:
        self.began += 1
        if self.began <= 2:
            if self._fault is not None:
                raise self._fault
            return
        self.well.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@pytest.mark.parametrize(
    ("fault", "event"),
    [
        (RuntimeError("broken"), "background_loop_failed"),
        (None, "background_loop_ended"),
        (asyncio.CancelledError(), "background_loop_cancelled_from_below"),
    ],
)
async def test_a_loop_that_goes_wrong_is_told_as_an_error_and_begun_again(
    fault: BaseException | None, event: str
) -> None:
    loop = Faulty(fault)
    with capture_logs() as lines:
        async with asyncio.timeout(5), background(loop.run, name="tests"):
            await loop.well.wait()
    told = [line for line in lines if line["event"] == event]
    assert [(line["log_level"], line["of"], line["loop"]) for line in told] == [
        ("error", "tests", "Faulty.run")
    ] * 2
    assert loop.cancelled


async def test_one_loop_that_goes_wrong_leaves_the_others_alone() -> None:
    faulty, steady = Faulty(RuntimeError("broken")), Faulty(None)
    steady.began = 2
    async with asyncio.timeout(5), background(faulty.run, steady.run, name="tests"):
        await faulty.well.wait()
    assert steady.began == 3


async def test_the_end_of_the_block_ends_the_loops_and_says_nothing() -> None:
    loop = Faulty(None)
    loop.began = 2
    with capture_logs() as lines:
        async with background(loop.run, name="tests"):
            await loop.well.wait()
    assert loop.cancelled
    assert lines == []


async def test_a_loop_whose_cancellation_was_swallowed_below_it_is_cancelled_again_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    swallowed = 0

    async def deaf() -> None:
        nonlocal swallowed
        while swallowed < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(deaf(), name="the deaf one")
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end(task, again=0.001)
    assert task.cancelled()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "the deaf one" in told[0]


async def test_whoever_is_cancelled_while_it_ends_a_task_leaves_no_task_behind() -> None:
    swallowed = asyncio.Event()

    async def deaf_once() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(deaf_once())
    await asyncio.sleep(0)
    ending = asyncio.create_task(end(task))
    await swallowed.wait()
    ending.cancel()
    async with asyncio.timeout(4):
        await asyncio.wait([ending])
    assert ending.cancelled()
    assert task.cancelled()


async def test_what_ended_tasks_raised_is_not_reported_as_never_looked_at() -> None:
    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("while it was ended")

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    await end(task)
    assert isinstance(task.exception(), RuntimeError)


async def test_a_loop_that_fails_while_it_is_cancelled_is_not_begun_again() -> None:
    began = 0

    async def failing() -> None:
        nonlocal began
        began += 1
        try:
            await asyncio.Event().wait()
        finally:
            raise RuntimeError("hides the cancellation")

    async with asyncio.timeout(5), background(failing, name="tests"):
        await asyncio.sleep(0)
    assert began == 1
