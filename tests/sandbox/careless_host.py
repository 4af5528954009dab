"""A host as one should not write it: it runs tools in itself, and prints what they return, a line for each.

Reads `{"sources": [...], "arguments": {...}}`. Of what a careful host does it has only what keeps the machine
that tests it safe: it is not root, and bounded in memory and time.
"""

# What tools import must be loaded while the runtime can still be read.
import ctypes  # noqa: F401
import json
import os
import random  # noqa: F401
import resource
import signal  # noqa: F401
import socket  # noqa: F401
import struct  # noqa: F401
import sys
import threading  # noqa: F401
import time  # noqa: F401

NOBODY = 65534


def main() -> None:
    """Run every tool in turn."""
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (5, 5))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    for source in request["sources"]:
        answer(source, request["arguments"])


def answer(source: str, arguments: dict[str, object]) -> None:
    """Run one tool, and print its result."""
    namespace: dict[str, object] = {}
    try:
        exec(source, namespace)  # noqa: S102  as the module says
        result = namespace["run"](**arguments)  # type: ignore[operator]
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  the tool's own
        result = {"error": str(error)}
    print(json.dumps(result), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
