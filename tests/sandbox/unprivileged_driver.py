"""The whole suite of attacks as a plain program, for an interpreter and user that have no pytest.

Prints one JSON object: the level, and by name of the attack what was wrong after it.
"""

import asyncio
import json
import os
import sys

from interlock_sandbox import Sandbox, SandboxUnavailable
from tests.sandbox.attacks import ATTACKS
from tests.sandbox.attacks.leaks import LEAKS
from tests.sandbox.siege import besiege, leaked
from tests.sandbox.world import World


async def main() -> dict[str, object]:
    """Every attack once."""
    sandbox = Sandbox(spares=2)
    try:
        await sandbox.start()
    except SandboxUnavailable as error:
        return {"unavailable": str(error)}
    try:
        with World() as world:
            problems = {attack.name: await besiege(sandbox, attack, world) for attack in ATTACKS}
            problems |= {leak.name: await leaked(sandbox, leak, world) for leak in LEAKS}
        status = sandbox.status()
    finally:
        await sandbox.close()
    return {"uid": os.getuid(), "level": status.level.name, "restarts": status.restarts, "problems": problems}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main())))
