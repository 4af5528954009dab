import asyncio
import json
import sys


async def test_a_kernel_without_landlock_is_told_with_its_remedy_and_lowers_the_level() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.sandbox.older_kernel", stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    report = json.loads(told)
    assert report["level"] == "PARTIAL"
    reason, remedy = report["missing"]["landlock"]
    assert reason == "the kernel has no Landlock"
    assert "lsm=" in remedy
