"""Runs the demo: begins it, sums it up, and says what to try next."""

import asyncio
import shlex
from pathlib import Path

from interlock.cli.display import emit_json
from interlock.cli.message_json import message_json
from interlock.cli.problems import CliError, show
from interlock.client.errors import InterlockError
from interlock_suite.demo.claims import Claims
from interlock_suite.demo.companion import Companion, companion
from interlock_suite.demo.model_story import ModelStory
from interlock_suite.demo.screen import Screen
from interlock_suite.demo.story import Story
from interlock_suite.demo.table_file import read_table
from interlock_suite.errors import SuiteError
from interlock_suite.options import DEFAULT_DATA_DIR

_INTERRUPTED = 130


def demo(data_dir: Path, file: Path | None, *, model: bool, port_base: int | None, as_json: bool) -> int:
    """The exit code: 0 only if everything held that the demo claims."""
    try:
        return asyncio.run(_demo(data_dir, file, model=model, port_base=port_base, as_json=as_json))
    except SuiteError as error:
        show(CliError(error.what, error.fix), as_json=as_json)
        return error.exit_code
    except CliError as error:
        show(error, as_json=as_json)
    except InterlockError as error:
        show(CliError(error.message, error.help, reason=error.reason or error.code.name), as_json=as_json)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 1


async def _demo(
    data_dir: Path, file: Path | None, *, model: bool, port_base: int | None, as_json: bool
) -> int:
    table = read_table(file)
    screen, claims = Screen(data_dir, silent=as_json), Claims()
    if model:
        screen.title("Interlock demo: a language model works on a sentence, under control.")
    else:
        screen.title(f"Interlock demo: an agent works on {table.name} ({table.size}), under control.")
    async with companion(data_dir, port_base=port_base) as running:
        story: Story | ModelStory
        if model:
            story = ModelStory(data_dir=data_dir, companion=running, screen=screen, claims=claims)
        else:
            story = Story(data_dir=data_dir, companion=running, table=table, screen=screen, claims=claims)
        await story.play()
        _sum_up(screen, claims)
        if not claims.broken:
            _try_next(screen, running)
        if as_json:
            emit_json(
                {
                    "held": claims.held,
                    "broken": claims.broken,
                    "tasks": [message_json(task) for task in story.tasks],
                }
            )
    return 1 if claims.broken else 0


def _sum_up(screen: Screen, claims: Claims) -> None:
    screen.gap()
    if not claims.broken:
        screen.verdict(f"All {len(claims.held)} claims of this demo held. Try next:", good=True)
        return
    screen.verdict("Not everything held:", good=False)
    for claim in claims.broken:
        screen.line(f"✗ {claim}")


def _try_next(screen: Screen, running: Companion) -> None:
    if screen.data_dir != DEFAULT_DATA_DIR:
        screen.whole(f"export INTERLOCK_DATA_DIR={shlex.quote(str(screen.data_dir.absolute()))}")
    if running.started is not None:
        screen.command("up", "# stopped now; started again it finds the tasks and the log as they are")
    screen.command("list", "# the tasks; get, watch and trace show one")
    screen.command("demo FILE", "# the same with a CSV file of your own")
    screen.whole(
        f'$ grpcurl -plaintext -H "authorization: Bearer $({screen.interlock} token)"'
        f" {running.addresses['orchestrator']} interlock.orchestrator.v1.OrchestratorService/ListTasks"
    )
