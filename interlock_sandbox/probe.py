"""What this host can isolate, found by trying in a real sandbox; well under a second."""

import asyncio

from interlock_sandbox.levels import SandboxStatus
from interlock_sandbox.negotiation import establish


async def probe() -> SandboxStatus:
    """The level this host reaches, and each layer with reason and remedy if it is absent."""
    established = await establish()
    await established.close()
    return established.status


def probe_now() -> SandboxStatus:
    """As `probe`, for callers without an event loop."""
    return asyncio.run(probe())
