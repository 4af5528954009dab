"""Attacks succeed once what holds them is off: what the suite shows is the sandbox's doing."""

import os
from pathlib import Path

import pytest

from interlock_sandbox import Layer, Limits, OutcomeKind, ToolProgram
from interlock_sandbox.levels import PARTIAL_LAYERS, STANDARD_LAYERS
from tests.sandbox.layers_off import ORDINARY_PROCESS, begin, problems_without, zygote
from tests.sandbox.waiting import until
from tests.sandbox.world import World, descendants

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("name", "breach"),
    [
        ("reads_a_file_of_the_host", "it learnt a secret"),
        ("writes_to_files_of_the_host", "the ledger was written to"),
        ("connects_by_every_family", "tcp heard somebody"),
        ("reads_what_every_host_has", "it got"),
        ("looks_for_other_processes", "it got"),
        ("starts_processes", "it "),
        ("opens_files_without_end", "it got"),
        ("walks_everything_it_can_see", "it got"),
    ],
)
async def test_without_isolation_the_attack_escapes(world: World, name: str, breach: str) -> None:
    problems = await problems_without(ORDINARY_PROCESS, name, world)
    assert any(problem.startswith(breach) for problem in problems)


@pytest.mark.parametrize(
    ("missing", "name"),
    [
        (Layer.SECCOMP, "starts_processes"),
        (Layer.SECCOMP, "opens_sockets_by_raw_calls"),
        (Layer.SECCOMP, "makes_namespaces_by_clone"),
        (Layer.RLIMITS, "opens_files_without_end"),
        (Layer.RLIMITS, "starts_threads_without_end"),
    ],
)
async def test_without_its_layer_the_attack_gets_something(world: World, missing: Layer, name: str) -> None:
    problems = await problems_without(STANDARD_LAYERS - {missing}, name, world)
    assert any(problem.startswith("it ") for problem in problems)


@pytest.mark.parametrize("missing", [Layer.SECCOMP, Layer.LANDLOCK])
@pytest.mark.parametrize(
    "name", ["reads_a_file_of_the_host", "writes_to_files_of_the_host", "connects_by_every_family"]
)
async def test_files_and_network_are_held_by_more_than_one_layer(
    world: World, missing: Layer, name: str
) -> None:
    problems = await problems_without(STANDARD_LAYERS - {missing}, name, world)
    host_saw = [problem for problem in problems if not problem.startswith("it got")]
    assert host_saw == []


DAEMON = """
import os, time
def run(seconds):
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
            os._exit(0)
    time.sleep(seconds)
"""


@pytest.mark.parametrize(("seconds", "kind"), [("0.4", OutcomeKind.COMPLETED), ("60", OutcomeKind.TIMEOUT)])
async def test_daemons_would_die_with_their_call_if_they_could_be_started(
    seconds: str, kind: OutcomeKind
) -> None:
    async with zygote(STANDARD_LAYERS - {Layer.SECCOMP}) as process:
        standing = descendants(process.pid)
        program = ToolProgram(source=DAEMON, arguments_json=f'{{"seconds": {seconds}}}'.encode())
        running = await begin(process, program, Limits(wall_seconds=1))
        # The tool, its three daemons, and the parents of these, which nobody has waited for.
        await until(lambda: len(descendants(process.pid) - standing) == 7)
        family = descendants(process.pid) - standing
        assert (await running).kind is kind
        await until(lambda: not descendants(process.pid) & family, seconds=1)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def test_a_tool_is_never_root_on_the_host() -> None:
    async with zygote(STANDARD_LAYERS) as process:
        spare = await process.spawn(disk_bytes=1 << 20)
        status = status_of(spare.host_pid)
        spare.close()
    ids = set(status["Uid"].split())
    assert "0" not in ids
    assert os.geteuid() == 0 or ids == {str(os.geteuid())}
    sets = [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd")]
    assert sets == [0] * 5
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.mark.parametrize("layers", [ORDINARY_PROCESS, PARTIAL_LAYERS, STANDARD_LAYERS])
async def test_an_honest_program_runs_with_any_set_of_layers(layers: frozenset[Layer]) -> None:
    async with zygote(layers) as process:
        outcome = await (await begin(process, ToolProgram(source="def run():\n    return 1\n"), Limits()))
        assert outcome.result_json == b"1"
