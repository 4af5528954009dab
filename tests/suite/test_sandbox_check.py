"""The probe of the sandbox before anything starts."""

import pytest

from interlock_sandbox import IsolationLevel, Layer, LayerStatus, SandboxStatus
from interlock_suite.errors import SuiteError
from interlock_suite.sandbox_check import REQUIRED, judge, require_sandbox


def _status(level: IsolationLevel, *layers: LayerStatus) -> SandboxStatus:
    return SandboxStatus(level=level, layers=layers, interpreter="3.11")


def test_a_host_below_the_required_level_is_refused_with_its_own_remedy() -> None:
    missing = LayerStatus(
        layer=Layer.NAMESPACES,
        present=False,
        reason="user namespaces are switched off",
        remedy="Run: sysctl -w user.max_user_namespaces=1000",
    )
    with pytest.raises(SuiteError) as refused:
        judge(_status(IsolationLevel.PARTIAL, missing))
    assert "namespaces: user namespaces are switched off" in refused.value.what
    assert refused.value.fix == "Run: sysctl -w user.max_user_namespaces=1000"


@pytest.mark.parametrize("level", [IsolationLevel.STANDARD, IsolationLevel.FULL])
def test_a_host_that_isolates_well_enough_is_accepted(level: IsolationLevel) -> None:
    assert judge(_status(level)) is level


async def test_this_host_is_judged_by_a_real_probe() -> None:
    assert await require_sandbox() >= REQUIRED
