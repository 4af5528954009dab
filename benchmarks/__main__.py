"""`./dev bench NAME`: run one set of measurements and print it as a table, or as JSON."""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping

from benchmarks import claims, orchestrator, quick, recovery, watch
from benchmarks.report import Row, table

SETS: Mapping[str, Callable[[], Awaitable[list[Row]]]] = {
    "quick": quick.measure,
    "claims": claims.measure,
    "orchestrator": orchestrator.measure,
    "recovery": recovery.measure,
    "watch": watch.measure,
}


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("name", choices=sorted(SETS), help="which set to run")
    parser.add_argument(
        "--only", action="append", choices=tuple(orchestrator.PARTS), help="a part of the set `orchestrator`"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    if arguments.only and arguments.name != "orchestrator":
        parser.error("--only is for the set `orchestrator`")
    measuring = (
        orchestrator.measure_parts(tuple(arguments.only)) if arguments.only else SETS[arguments.name]()
    )
    rows = asyncio.run(_finish(measuring))
    print(json.dumps([row.as_json() for row in rows]) if arguments.json else table(rows))
    return 0


async def _finish(measuring: Awaitable[list[Row]]) -> list[Row]:
    return await measuring


if __name__ == "__main__":
    sys.exit(main())
