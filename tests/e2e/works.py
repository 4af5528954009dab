"""The tools and agents of the tests; each agent calls the one tool of its name."""

from tests.e2e.catalogue import AT_MOST_ONCE, Work

_ECHO = "def run(value):\n    return value\n"
# Says when it ended, so that a test knows whether that was before or after a fault.
_NAP = "import time\ndef run(seconds):\n    time.sleep(seconds)\n    return {'at': time.time()}\n"

ECHO = Work(name="echo", source=_ECHO, arguments=("value",))
NAP = Work(name="nap", source=_NAP, arguments=("seconds",), seconds=20, failures=50)
NAPS = Work(name="naps", source=_NAP, arguments=("seconds",), seconds=20, steps=6)
NAP_ONCE = Work(
    name="nap-once", source=_NAP, arguments=("seconds",), seconds=20, side_effect=AT_MOST_ONCE, failures=2
)

STRICT = Work(
    name="strict",
    source="def run(rows, name):\n    return [rows, name]\n",
    input_schema={
        "type": "object",
        "properties": {"rows": {"type": "integer"}, "name": {"type": "string"}},
        "required": ["rows", "name"],
        "additionalProperties": False,
    },
)

# The hostile ones
SLEEPS = Work(name="sleeps", source="import time\ndef run():\n    time.sleep(60)\n", seconds=1)
FORKS = Work(name="forks", source="import os\ndef run():\n    while True:\n        os.fork()\n", seconds=2)
FLOODS = Work(name="floods", source="def run():\n    while True:\n        print('x' * 100_000)\n")
ALLOCATES = Work(
    name="allocates",
    source="def run():\n    kept = []\n    while True:\n        kept.append(bytearray(1_000_000))\n",
)
CONNECTS = Work(
    name="connects",
    source=(
        "import socket\n"
        "def run(port, path):\n"
        "    try:\n"
        "        socket.create_connection(('127.0.0.1', port), 2).close()\n"
        "    except OSError:\n"
        "        socket.socket(socket.AF_UNIX).connect(path)\n"
        "    return 'reached'\n"
    ),
    arguments=("port", "path"),
)
READS = Work(
    name="reads",
    source=(
        "import os\n"
        "def run(paths):\n"
        "    found = {}\n"
        "    for path in paths:\n"
        "        try:\n"
        "            found[path] = open(path, errors='replace').read()\n"
        "        except OSError:\n"
        "            pass\n"
        "    raise LookupError(f'{found} {dict(os.environ)}')\n"
    ),
    arguments=("paths",),
)

HOSTILE = (SLEEPS, FORKS, FLOODS, ALLOCATES, CONNECTS, READS)
WORKS = (ECHO, NAP, NAPS, NAP_ONCE, STRICT, *HOSTILE)
