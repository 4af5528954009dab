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

WORKS = (ECHO, NAP, NAPS, NAP_ONCE)
