"""Runs a suite of small children in the foreground, as `interlock up` runs the real one.

usage: python -m tests.suite.runner DATA_DIR [OPTION=VALUE…]
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from interlock_suite.children import Child
from interlock_suite.options import Options
from interlock_suite.tokens import Grant
from interlock_suite.up import up
from svc_kit.identity import SYSTEM_TENANT, Role

_SCRIPT = str(Path(__file__).with_name("child.py"))


def small_child(name: str, **more: Any) -> Child:
    grant = Grant(subject=name, tenant=SYSTEM_TENANT, roles=frozenset({Role.SERVICE}))
    return Child(name=name, argv=(_SCRIPT, name), grant=grant, **more)


CHILDREN = (
    small_child("audit"),
    small_child("gateway", calls=("audit",)),
    small_child("orchestrator", doors=False, redis=True, calls=("gateway", "audit")),
    small_child("worker", redis=True, doors=False, after=("orchestrator",)),
)


def main(arguments: list[str]) -> int:
    data_dir, *rest = arguments
    settings: dict[str, Any] = {"data_dir": Path(data_dir), "children": CHILDREN, "probe_sandbox": False}
    for item in rest:
        name, _, value = item.partition("=")
        settings[name] = int(value) if value.isdigit() else value
    return asyncio.run(up(Options(**settings)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
