"""`./dev bench NAME`: run one set of measurements and print it as a table, or as JSON."""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping

from benchmarks import audit, claims, gateway, orchestrator, quick, recovery, watch
from benchmarks.report import Row, table

SETS: Mapping[str, Callable[[], Awaitable[list[Row]]]] = {
    "audit": audit.measure,
    "quick": quick.measure,
    "claims": claims.measure,
    "gateway": gateway.measure,
    "orchestrator": orchestrator.measure,
    "recovery": recovery.measure,
    "watch": watch.measure,
}
# Sets whose parts can be run alone.
PARTS: Mapping[str, tuple[Iterable[str], Callable[[tuple[str, ...]], Awaitable[list[Row]]]]] = {
    "audit": (audit.PARTS, audit.measure_parts),
    "gateway": (gateway.PARTS, gateway.measure_parts),
    "orchestrator": (orchestrator.PARTS, orchestrator.measure_parts),
}


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("name", choices=sorted(SETS), help="which set to run")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PART",
        help="a part of a set: "
        + "; ".join(f"{name}: {', '.join(parts)}" for name, (parts, _) in PARTS.items()),
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    parts, of_parts = PARTS.get(arguments.name, ((), None))
    unknown = sorted(set(arguments.only) - set(parts))
    if unknown:
        parser.error(
            f"--only {unknown[0]}: the parts of `{arguments.name}` are: {', '.join(parts) or 'none'}"
        )
    only = tuple(arguments.only)
    measuring = of_parts(only) if only and of_parts else SETS[arguments.name]()
    rows = asyncio.run(_finish(measuring))
    print(json.dumps([row.as_json() for row in rows]) if arguments.json else table(rows))
    return 0


async def _finish(measuring: Awaitable[list[Row]]) -> list[Row]:
    return await measuring


if __name__ == "__main__":
    sys.exit(main())
