"""Refuses to start where tools could not be held."""

from interlock_sandbox import IsolationLevel, SandboxStatus, probe
from interlock_suite.errors import SuiteError

REQUIRED = IsolationLevel.STANDARD


async def require_sandbox() -> IsolationLevel:
    """The level that this host reaches; SuiteError with the remedy for this host when that is too low."""
    return judge(await probe())


def judge(status: SandboxStatus) -> IsolationLevel:
    """The level, if it is enough."""
    if status.level >= REQUIRED:
        return status.level
    problems = [layer for layer in status.problems if layer.reason]
    reasons = "; ".join(f"{layer.layer.value}: {layer.reason}" for layer in problems)
    remedies = dict.fromkeys(layer.remedy for layer in problems if layer.remedy)
    raise SuiteError(
        f"Tools are isolated only at level {status.level.name} here; {REQUIRED.name} is needed ({reasons}).",
        " ".join(remedies) or "Run on a host with user namespaces, seccomp and Landlock.",
    )
