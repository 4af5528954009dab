"""`./dev bench NAME`: run one set of measurements and print it as a table, or as JSON."""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping

from benchmarks import quick
from benchmarks.report import Row, table

SETS: Mapping[str, Callable[[], Awaitable[list[Row]]]] = {"quick": quick.measure}


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("name", choices=sorted(SETS), help="which set to run")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    rows = asyncio.run(SETS[arguments.name]())  # type: ignore[arg-type]
    if arguments.output == "json":
        print(json.dumps([row.as_json() for row in rows]))
    else:
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
