"""When a failed attempt is repeated, and after how long."""

from dataclasses import dataclass

DEFAULT_MAX_FAILURES = 3
DEFAULT_INITIAL_SECONDS = 1.0
DEFAULT_MAXIMUM_SECONDS = 60.0
DEFAULT_COEFFICIENT = 2.0
# A server may ask for more than the policy's longest wait, but not to park a task for ever.
MAX_TOLD_SECONDS = 24 * 3600.0
_JITTER = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How failures of one task are repeated; lost workers are not failures. Times in seconds."""

    max_failures: int = DEFAULT_MAX_FAILURES  # 1 = never repeated
    initial: float = DEFAULT_INITIAL_SECONDS
    maximum: float = DEFAULT_MAXIMUM_SECONDS
    coefficient: float = DEFAULT_COEFFICIENT
    non_retryable: tuple[str, ...] = ()  # error classes

    def repeats(self, error_class: str) -> bool:
        """Whether failures of this class are repeated at all."""
        return error_class not in self.non_retryable


def back_off(policy: RetryPolicy, *, failures: int, told: float = 0.0, chance: float) -> float:
    """Seconds until the next attempt after failure number `failures` (from 1).

    `chance` in [0, 1) spreads the waits of tasks that failed together by 20 % either way. `told` is the least
    wait that a server named; it may exceed the policy's maximum.
    """
    # A large exponent overflows a float long after the maximum has decided.
    exponent = min(failures - 1, 64)
    wait = min(policy.initial * policy.coefficient**exponent, policy.maximum)
    spread = wait * (1 + _JITTER * (2 * chance - 1))
    return max(min(spread, policy.maximum), min(told, MAX_TOLD_SECONDS))
