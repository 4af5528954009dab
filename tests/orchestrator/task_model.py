"""What a task must be after everything that happened to it: the contract, written a second time.

Times are seconds from now by a clock that the test moves; nothing here knows the code that is tested.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_FAILURES = 3
BACK_OFF, LONGEST_BACK_OFF = 350.0, 700.0
START_TO_CLOSE, LEASE, GRACE = 2050.0, 950.0, 650.0
ENDS = ("COMPLETED", "FAILED", "CANCELED")


@dataclass
class TaskModel:
    """One task."""

    task_id: uuid.UUID
    start_within: float | None
    start_in: float | None
    ends_in: float | None
    state: str = "SUBMITTED"
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    losses: int = 0
    revision: int = 1
    pausing: bool = False
    dead_lettered: bool = False
    ahead: bool = False
    runs_in: float = 0.0
    close_in: float | None = None
    wind_up_in: float | None = None
    session: uuid.UUID | None = None
    questions: list[bool] = field(default_factory=list)  # whether each is answered

    @property
    def suspect(self) -> bool:
        """It was aboard at two deaths in a row."""
        return self.losses > 1 and self.state not in ENDS

    @property
    def live(self) -> bool:
        """An attempt works on it."""
        return self.session is not None

    @property
    def runnable(self) -> bool:
        """A worker could take it now."""
        return self.state == "SUBMITTED" and self.runs_in <= 0

    def pass_time(self, seconds: float) -> None:
        """Every clock that runs goes on."""
        self.runs_in -= seconds
        parked = self.state in ("PAUSED", "INPUT_REQUIRED")
        self.ends_in = self.ends_in if parked or self.ends_in is None else self.ends_in - seconds
        self.start_in = None if self.start_in is None else self.start_in - seconds
        self.close_in = None if self.close_in is None else self.close_in - seconds
        self.wind_up_in = None if self.wind_up_in is None else self.wind_up_in - seconds

    def claim(self, session: uuid.UUID) -> None:
        """A worker takes it."""
        self._become("RUNNING")
        self.attempt += 1
        self.session, self.close_in, self.ahead = session, START_TO_CLOSE, False

    def complete(self) -> None:
        """The attempt brings a result."""
        self._end_attempt()
        self._become("COMPLETED")

    def fail(self, *, retryable: bool = True) -> None:
        """The attempt fails."""
        canceling = self.state == "CANCELING"
        pausing = self._end_attempt()
        if canceling:
            self._become("CANCELED")
            return
        self.failures, self.losses = self.failures + 1, 0
        wait = min(BACK_OFF * 2 ** (self.failures - 1), LONGEST_BACK_OFF)
        late = self.ends_in is not None and wait >= self.ends_in
        if not retryable:
            self._become("FAILED")
        elif self.failures >= MAX_FAILURES or late:
            self._give_up()
        elif pausing:
            self._become("PAUSED")
        else:
            self._become("SUBMITTED")
            self.runs_in = wait

    def release(self) -> None:
        """The worker gives it back."""
        canceling = self.state == "CANCELING"
        pausing = self._end_attempt()
        self.losses = 0
        self._become("CANCELED" if canceling else "PAUSED" if pausing else "SUBMITTED")

    def lose(self, *, blamed: bool) -> None:
        """Its worker dies."""
        canceling = self.state == "CANCELING"
        pausing = self._end_attempt()
        self.losses, self.crashes = self.losses + 1, self.crashes + blamed
        if canceling:
            self._become("CANCELED")
        elif self.crashes == MAX_FAILURES:
            self._give_up()
        else:
            self._become("PAUSED" if pausing else "SUBMITTED")

    def ask(self) -> None:
        """The attempt asks the last open question, or a new one."""
        if not self.questions or self.questions[-1]:
            self.questions.append(False)
        canceling = self.state == "CANCELING"
        pausing = self._end_attempt()
        self.losses = 0
        self._become("CANCELED" if canceling else "PAUSED" if pausing else "INPUT_REQUIRED")

    def answer(self) -> None:
        """A person answers what it waits for."""
        self.questions[-1] = True
        self.revision += 1
        self._go_on()

    def cancel(self) -> None:
        """Somebody wants it to end."""
        if self.state in ("CANCELING", "CANCELED"):
            return
        if self.state == "RUNNING":
            self._become("CANCELING")
            self.pausing, self.ends_in, self.wind_up_in = False, None, GRACE
        else:
            self._become("CANCELED")

    def pause(self) -> None:
        """Somebody wants it to stand still."""
        if self.state == "PAUSED" or self.pausing:
            return
        if self.state == "RUNNING":
            self.revision += 1
            self.pausing, self.wind_up_in = True, GRACE
        else:
            self._become("PAUSED")

    def resume(self) -> None:
        """Somebody wants it to go on."""
        if self.pausing:
            self.revision += 1
            self.pausing, self.wind_up_in = False, None
        elif self.state == "PAUSED":
            self._go_on()
            self.start_in = None if self.attempt else self.start_within

    def keep_time(self) -> None:
        """What has run out takes its effect, the hardest first."""
        if _over(self.wind_up_in):
            canceling = self.state == "CANCELING"
            self._end_attempt()
            self._become("CANCELED" if canceling else "PAUSED")
        elif _over(self.ends_in) and self.state in ("SUBMITTED", "RUNNING"):
            self._end_attempt()
            self._give_up()
        elif _over(self.start_in):
            self._give_up()
        elif _over(self.close_in):
            self.fail()

    def _go_on(self) -> None:
        self._become("SUBMITTED")
        self.runs_in, self.ahead = 0.0, True

    def _give_up(self) -> None:
        self._become("FAILED")
        self.dead_lettered = True

    def _end_attempt(self) -> bool:
        """Whether it was to be paused."""
        pausing, self.pausing = self.pausing, False
        self.session = self.close_in = self.wind_up_in = None
        return pausing

    def _become(self, state: str) -> None:
        self.state, self.start_in, self.revision = state, None, self.revision + 1
        if state in ENDS:
            self.ends_in, self.losses = None, 0


def lose_all(aboard: Sequence[TaskModel]) -> None:
    """A worker dies with these aboard."""
    suspects = [task for task in aboard if task.suspect]
    guilty = aboard if len(aboard) == 1 else suspects if len(suspects) == 1 else ()
    blamed = {task.task_id for task in guilty}
    for task in aboard:
        task.lose(blamed=task.task_id in blamed)


def _over(left: float | None) -> bool:
    return left is not None and left <= 0
