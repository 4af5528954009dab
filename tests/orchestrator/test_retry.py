"""Back-off."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator_svc.retry import MAX_TOLD_SECONDS, RetryPolicy, back_off

POLICIES = st.builds(
    RetryPolicy,
    max_failures=st.integers(1, 100),
    initial=st.floats(0.001, 100),
    maximum=st.floats(0.001, 3600),
    coefficient=st.floats(1, 10),
)
CHANCES = st.floats(0, 1, exclude_max=True)


@given(POLICIES, st.integers(1, 1_000_000), CHANCES)
def test_a_wait_is_positive_and_never_above_the_maximum_of_the_policy(
    policy: RetryPolicy, failures: int, chance: float
) -> None:
    assert 0 < back_off(policy, failures=failures, chance=chance) <= policy.maximum


@given(POLICIES, st.integers(1, 60), CHANCES)
def test_a_later_failure_never_waits_less(policy: RetryPolicy, failures: int, chance: float) -> None:
    earlier = back_off(policy, failures=failures, chance=chance)
    assert back_off(policy, failures=failures + 1, chance=chance) >= earlier


@given(POLICIES, st.floats(0, 10 * MAX_TOLD_SECONDS), CHANCES)
def test_what_a_server_told_is_the_least_wait_up_to_a_day(
    policy: RetryPolicy, told: float, chance: float
) -> None:
    wait = back_off(policy, failures=1, told=told, chance=chance)
    assert min(told, MAX_TOLD_SECONDS) <= wait <= max(policy.maximum, MAX_TOLD_SECONDS)


def test_waits_double_from_one_second_and_spread_by_a_fifth() -> None:
    waits = [back_off(RetryPolicy(), failures=n, chance=0.5) for n in range(1, 8)]
    assert waits == [1, 2, 4, 8, 16, 32, 60]
    spread = [back_off(RetryPolicy(), failures=1, chance=chance) for chance in (0, 0.5, 0.999999)]
    assert spread[0] == 0.8 and 1.19 < spread[2] < 1.2


def test_a_policy_repeats_every_class_but_those_it_names() -> None:
    policy = RetryPolicy(non_retryable=("ValueError",))
    assert policy.repeats("KeyError") and not policy.repeats("ValueError")
