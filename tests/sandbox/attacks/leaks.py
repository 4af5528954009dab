"""Pairs of hostile programs: one leaves something behind or lays it out, another one looks for it.

`plant` is told a canary. `look` returns what it finds as `{"got": [...]}`; it is not told what to look for.
"""

import textwrap
from dataclasses import dataclass

from tests.sandbox.attacks.attack import PRELUDE

_PLANT = """
def run(canary, seconds=0, **given):
    kept = plant(canary, **given)
    import time
    time.sleep(seconds)  # so that it can also be found while this call still runs
    return {"got": []}
"""
_LOOK = """
def run(seconds=0, **given):
    import time
    end = time.monotonic() + seconds
    while True:
        try:
            got = look(**given)
        except OSError:
            got = None
        if got or time.monotonic() >= end:
            return {"got": got or []}
        time.sleep(0.01)
"""


@dataclass(frozen=True, kw_only=True)
class Leak:
    """The two sources."""

    name: str
    plant: str
    look: str
    found: str
    """What `look` finds; empty if that is the canary."""


def _leak(name: str, plant: str, look: str, found: str = "") -> Leak:
    """Both are bodies of functions: of `plant(canary, scratch, calls)` and of `look(scratch, calls)`."""
    head = "def {}:\n"
    return Leak(
        name=name,
        plant=PRELUDE + head.format("plant(canary, scratch, calls, **_)") + _body(plant) + _PLANT,
        look=PRELUDE + head.format("look(scratch, calls, **_)") + _body(look) + _LOOK,
        found=found,
    )


def _body(lines: str) -> str:
    return textwrap.indent(textwrap.dedent(lines).strip(), "    ") + "\n"


LEAKS = [
    _leak(
        "names_of_the_language",
        "import builtins; builtins.kept = canary",
        "import builtins; return getattr(builtins, 'kept', None)",
    ),
    _leak(
        "patched_modules",
        """
        import json
        def listens(*a, **k):
            return canary
        json.loads = listens
        """,
        "import json; return [] if json.loads('1') == 1 else json.loads('1')",
    ),
    _leak(
        "loaded_modules",
        "import sys, types; sys.modules['kept'] = types.SimpleNamespace(canary=canary)",
        "import sys; return getattr(sys.modules.get('kept'), 'canary', None)",
    ),
    _leak(
        "objects_nobody_holds",
        "import gc; loop = [canary]; loop.append(loop); gc.disable()",
        """
        import gc
        return [o[0] for o in gc.get_objects() if type(o) is list and len(o) == 2 and o[1] is o]
        """,
    ),
    _leak(
        "memory_that_was_freed",
        """
        libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        place = libc.malloc(100_000)
        ctypes.memmove(place, (canary * 5000).encode(), 100_000)
        libc.free(place)
        """,
        """
        libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        places = [libc.malloc(size) for size in (100_000, 100_000, 1000, 60_000, 120_000)]
        rest = b"".join(ctypes.string_at(place, 1000) for place in places)
        import re
        found = re.search(b"canary-[0-9a-f]{12}", rest)
        return found and found[0].decode()
        """,
    ),
    _leak(
        "scratch_files",
        "open(scratch + '/kept', 'w').write(canary)",
        "return [open(scratch + '/' + name).read() for name in os.listdir(scratch) if name == 'kept']",
    ),
    _leak(
        "environment",
        "os.environ['KEPT'] = canary; libc.setenv(b'KEPT2', canary.encode(), 1)",
        """
        libc.getenv.restype = ctypes.c_char_p
        return os.environ.get("KEPT") or (libc.getenv(b"KEPT2") or b"").decode()
        """,
    ),
    _leak(
        "open_descriptors",
        """
        reading, writing = os.pipe()
        os.write(writing, canary.encode())
        os.dup2(reading, 40)
        os.dup2(writing, 41)
        """,
        "return os.read(40, 100).decode()",
    ),
    _leak(
        "shared_memory_by_key",
        """
        libc.shmat.restype = ctypes.c_void_p
        number = libc.shmget(0x1E4B0C, 4096, 0o1666)
        if number >= 0:
            ctypes.memmove(libc.shmat(number, None, 0), canary.encode(), len(canary))
        """,
        """
        libc.shmat.restype = ctypes.c_void_p
        number = libc.shmget(0x1E4B0C, 4096, 0)
        if number < 0:
            return None
        text = ctypes.string_at(libc.shmat(number, None, 0)).decode()
        libc.shmctl(number, 0, None)  # remove it
        return text
        """,
    ),
    _leak(
        "shared_memory_by_name",
        """
        for folder in ("/dev/shm", "/var/tmp", "/run/lock"):
            tried(lambda: open(folder + "/interlock-kept", "w").write(canary))
        """,
        """
        found = []
        for folder in ("/dev/shm", "/var/tmp", "/run/lock"):
            name = folder + "/interlock-kept"
            found += tried(lambda: open(name).read())
            tried(lambda: os.unlink(name))
        return found
        """,
    ),
    _leak(
        "abstract_sockets",
        """
        import builtins, socket
        def listens():
            builtins.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            builtins.listener.bind("\\0interlock-kept")
            builtins.listener.listen()
        tried(listens)
        """,
        """
        import socket
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
            visitor.connect("\\0interlock-kept")
            return "met somebody"
        """,
        found="met somebody",
    ),
    _leak(
        "keyrings",
        """
        for ring in (-2, -3, -4):
            call(calls['add_key'], b'user', b'interlock', canary.encode(), len(canary), ring)
        """,
        """
        for ring in (-2, -3, -4):
            number, _ = call(calls['keyctl'], 10, ring, b'user', b'interlock', 0)
            text = ctypes.create_string_buffer(100)
            if number > 0 and call(calls['keyctl'], 11, number, text, 100)[0] > 0:
                return text.value.decode()
        """,
    ),
    _leak(
        "state_of_the_random_numbers",
        "import random; random.seed(42)",
        "import random; return 'seeded' if random.random() == 0.6394267984578837 else None",
        found="seeded",
    ),
    _leak(
        "handlers_of_signals",
        """
        import signal
        signal.signal(signal.SIGUSR1, lambda *_: canary)
        signal.setitimer(signal.ITIMER_REAL, 900)
        """,
        """
        import signal
        handler = signal.getsignal(signal.SIGUSR1)
        return [handler()] if callable(handler) else signal.getitimer(signal.ITIMER_REAL)[0] > 0
        """,
    ),
    _leak(
        "place_mask_and_limits",
        """
        import resource
        os.umask(0o123)
        os.chdir("/usr")
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        """,
        """
        import resource
        mask = os.umask(0o77)
        os.umask(mask)
        seen = [oct(mask), os.getcwd(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]]
        return [left for left, mine in zip(seen, ("0o123", "/usr", 60)) if left == mine]
        """,
        found="['0o123', '/usr', 60]",
    ),
    _leak(
        "threads",
        """
        import threading, time
        threading.Thread(target=time.sleep, args=(60,), name=canary, daemon=True).start()
        """,
        "import threading; return [t.name for t in threading.enumerate() if t.name.startswith('canary-')]",
    ),
]
