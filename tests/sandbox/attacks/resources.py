"""Hostile programs that use everything up, or fall over."""

from interlock_sandbox import Limits, OutcomeKind
from tests.sandbox.attacks.attack import MIB, attack

RESOURCES = [
    attack(
        "takes_memory_in_one_piece",
        """
    def run(**_):
        return {"got": len(bytearray(2 << 30))}
    """,
        OutcomeKind.MEMORY,
    ),
    attack(
        "takes_memory_in_small_pieces",
        """
    def run(**_):
        kept = []
        while len(kept) < 1 << 24:
            kept.append(bytearray(1024))
        return {"got": len(kept)}
    """,
        OutcomeKind.MEMORY,
        limits=Limits(memory_bytes=64 * MIB),
    ),
    attack(
        "takes_memory_outside_the_heap",
        """
    import mmap
    def run(calls, **_):
        return {"got": tried(
            lambda: len(mmap.mmap(-1, 4 << 30)),
            lambda: os.memfd_create("hidden"),
            lambda: os.truncate("/tmp/big", 1 << 30) or os.path.getsize("/tmp/big"),
        )}
    """,
    ),
    attack(
        "spins",
        """
    def run(**_):
        while True:
            pass
    """,
        OutcomeKind.TIMEOUT,
        limits=Limits(wall_seconds=0.5),
    ),
    attack(
        "uses_up_its_processor_time",
        """
    import threading
    def spin():
        while True:
            pass
    def run(**_):
        threading.Thread(target=spin).start()
        spin()
    """,
        OutcomeKind.CPU,
        limits=Limits(wall_seconds=20, cpu_seconds=1),
    ),
    attack(
        "hides_in_a_library_that_cannot_be_interrupted",
        """
    import re
    def run(**_):
        re.match("(a+)+$", "a" * 60 + "b")
    """,
        OutcomeKind.TIMEOUT,
        limits=Limits(wall_seconds=0.5),
    ),
    attack(
        "floods_stdout",
        """
    def run(**_):
        while True:
            os.write(1, b"x" * 65536)
    """,
        OutcomeKind.OUTPUT_LIMIT,
    ),
    attack(
        "floods_stderr_by_lines",
        """
    import sys
    def run(**_):
        while True:
            print("y" * 1000, file=sys.stderr)
    """,
        OutcomeKind.OUTPUT_LIMIT,
    ),
    attack(
        "fills_the_disk",
        """
    def run(**_):
        written, number = 0, 0
        while number < 100:
            number += 1
            try:
                with open(f"/tmp/{number}", "wb", buffering=0) as file:
                    while written < 1 << 28:
                        written += file.write(b"x" * 65536)
            except OSError:
                pass
        return {"got": max(0, written - (16 << 20))}
    """,
    ),
    attack(
        "fills_the_disk_with_empty_files",
        """
    def run(**_):
        made = 0
        try:
            while made < 100000:
                os.close(os.open(f"/tmp/{made}", os.O_CREAT))
                made += 1
        except OSError:
            pass
        return {"got": max(0, made - 1024)}
    """,
    ),
    attack(
        "opens_files_without_end",
        """
    def run(**_):
        opened = 0
        try:
            while opened < 5000:
                os.open("/dev/null", os.O_RDONLY)
                opened += 1
        except OSError:
            pass
        return {"got": max(0, opened - 64)}
    """,
    ),
    attack("recurses_without_end", "def run(**_):\n    return run()\n", OutcomeKind.TOOL_ERROR),
    attack(
        "crashes_the_interpreter",
        """
    def run(**_):
        ctypes.string_at(0)
    """,
        OutcomeKind.CRASHED,
    ),
    attack("leaves_without_a_word", "def run(**_):\n    os._exit(7)\n", OutcomeKind.CRASHED),
    attack("exits", "import sys\ndef run(**_):\n    sys.exit(3)\n", OutcomeKind.TOOL_ERROR),
    attack(
        "raises_what_cannot_be_told",
        """
    class Mute(Exception):
        def __str__(self):
            raise ValueError
        __repr__ = __str__
    def run(**_):
        raise Mute
    """,
        OutcomeKind.TOOL_ERROR,
    ),
]
