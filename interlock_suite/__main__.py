"""`python -m interlock_suite up|demo`: the embedded suite without the command line client."""

import argparse
import asyncio
import sys
from pathlib import Path

from interlock_suite.options import (
    DEFAULT_DATA_DIR,
    MOST_ORCHESTRATORS,
    MOST_WORKERS,
    Options,
    external_servers,
)


def main() -> int:
    """Parse, run, return the exit code."""
    parser = argparse.ArgumentParser(prog="interlock_suite", description=__doc__)
    commands = parser.add_subparsers(required=True)
    _add_up(commands.add_parser("up", help="start everything and stay in the foreground"))
    _add_demo(commands.add_parser("demo", help="one real task, from submit to a verified audit trail"))
    arguments = vars(parser.parse_args())
    code: int = arguments.pop("run")(**arguments)
    return code


def _add_up(command: argparse.ArgumentParser) -> None:
    database_url, redis_url = external_servers()
    command.add_argument("--data-dir", type=Path, default=DEFAULT_DATA_DIR)
    command.add_argument("--port-base", type=int)
    command.add_argument("--database-url", default=database_url)
    command.add_argument("--redis-url", default=redis_url)
    command.add_argument("--orchestrators", type=int, default=1, choices=range(1, MOST_ORCHESTRATORS + 1))
    command.add_argument("--workers", type=int, default=1, choices=range(1, MOST_WORKERS + 1))
    command.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    command.add_argument("--output", choices=("text", "json"), default="text")
    command.set_defaults(run=_up)


def _add_demo(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-dir", type=Path, default=DEFAULT_DATA_DIR)
    command.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="a CSV file; by default an example"
    )
    command.add_argument("--model", action="store_true", help="a language model works on a sentence instead")
    command.add_argument("--port-base", type=int)
    command.add_argument("--output", choices=("text", "json"), default="text")
    command.set_defaults(run=_demo)


def _up(*, output: str, **settings: object) -> int:
    from interlock_suite.up import up  # noqa: PLC0415 - each command imports what it runs

    options = Options(**settings)  # type: ignore[arg-type]
    return asyncio.run(up(options, as_json=output == "json"))


def _demo(*, data_dir: Path, file: Path | None, model: bool, port_base: int | None, output: str) -> int:
    from interlock_suite.demo.command import demo  # noqa: PLC0415 - each command imports what it runs

    return demo(data_dir, file, model=model, port_base=port_base, as_json=output == "json")


if __name__ == "__main__":
    sys.exit(main())
