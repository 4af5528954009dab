"""`python -m interlock_suite up`: the embedded suite without the command line client."""

import argparse
import asyncio
import sys
from pathlib import Path

from interlock_suite.options import DEFAULT_DATA_DIR, Options, external_servers
from interlock_suite.up import up


def main() -> int:
    """Parse, run, return the exit code."""
    database_url, redis_url = external_servers()
    parser = argparse.ArgumentParser(prog="interlock_suite", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("up", help="start everything and stay in the foreground")
    command.add_argument("--data-dir", type=Path, default=DEFAULT_DATA_DIR)
    command.add_argument("--port-base", type=int)
    command.add_argument("--database-url", default=database_url)
    command.add_argument("--redis-url", default=redis_url)
    command.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    arguments = parser.parse_args()
    return asyncio.run(up(Options(**vars(arguments))))


if __name__ == "__main__":
    sys.exit(main())
