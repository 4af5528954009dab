"""The tools and agents of these tests."""

from tests.e2e.catalogue import AT_MOST_ONCE, Work

_ECHO = "def run(value):\n    return value\n"
_NAP = "import time\ndef run(seconds):\n    time.sleep(seconds)\n    return seconds\n"
_RAISE = "def run(value):\n    raise ValueError(f'no use for {value}')\n"
_STRICT = {
    "type": "object",
    "properties": {
        "rows": {"type": "integer", "maximum": 100},
        "name": {"type": "string", "minLength": 2},
        "mode": {"enum": ["fast", "exact"]},
    },
    "required": ["rows", "name", "mode"],
    "additionalProperties": False,
}

ECHO = Work(name="acc-echo", source=_ECHO, arguments=("value",), failures=10)
LISTED = Work(name="acc-listed", source=_ECHO, arguments=("value",))
NAP_ONCE = Work(
    name="acc-nap-once", source=_NAP, arguments=("seconds",), seconds=20, side_effect=AT_MOST_ONCE
)
RAISES = Work(name="acc-raises", source=_RAISE, arguments=("value",))
STRICT = Work(
    name="acc-strict",
    source="def run(rows, name, mode):\n    return [rows, name, mode]\n",
    input_schema=_STRICT,
    checked_early=False,
)
ALLOCATES = Work(
    name="acc-allocates",
    source="def run():\n    kept = []\n    while True:\n        kept.append(bytearray(1_000_000))\n",
)
DENIED = Work(name="acc-denied", source=_ECHO, arguments=("value",), allowed=False)

APPROVED = Work(name="acc-approved", source=_ECHO, arguments=("value",), allowed=False)

WORKS = (APPROVED, ECHO, LISTED, NAP_ONCE, RAISES, STRICT, ALLOCATES, DENIED)
