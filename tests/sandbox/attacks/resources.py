"""Hostile programs that use everything up."""

from interlock_sandbox import Layer, Limits, OutcomeKind
from tests.sandbox.attacks.attack import MIB, Guard, attack

_BOUNDED = (Layer.RLIMITS,)
_SMALL = Limits(memory_bytes=64 * MIB)
_SOON = Limits(wall_seconds=0.15)
_LATE = "it ran past its deadline"

RESOURCES = [
    attack(
        "takes_memory_in_one_piece",
        """
    def run(**_):
        return {"got": len(bytearray(96 << 20))}
    """,
        OutcomeKind.MEMORY,
        limits=_SMALL,
        held_by=_BOUNDED,
    ),
    attack(
        "takes_memory_in_small_pieces",
        """
    def run(**_):
        kept = []
        while len(kept) < 96 << 10:
            kept.append(bytearray(1024))
        return {"got": len(kept)}
    """,
        OutcomeKind.MEMORY,
        limits=_SMALL,
        held_by=_BOUNDED,
    ),
    attack(
        "takes_memory_by_mappings",
        """
    import mmap
    def run(**_):
        kept = []
        try:
            while len(kept) < 12:
                kept.append(mmap.mmap(-1, 8 << 20))
                kept[-1][::4096] = b"x" * 2048
        except OSError:
            pass
        return {"got": max(0, len(kept) * 8 - 64)}
    """,
        limits=_SMALL,
        held_by=_BOUNDED,
    ),
    attack(
        "takes_memory_outside_the_heap",
        """
    import mmap
    def run(scratch, **_):
        open(scratch + "/big", "w").close()
        return {"got": tried(
            lambda: len(mmap.mmap(-1, 4 << 30)),
            lambda: os.memfd_create("hidden"),
            lambda: os.truncate(scratch + "/big", 1 << 30) or os.path.getsize(scratch + "/big"),
        )}
    """,
        held_by=_BOUNDED,
    ),
    attack(
        "inflates_a_bomb",
        """
    import zlib
    def run(**_):
        packer = zlib.compressobj(9)
        bomb = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(48)), packer.flush()])
        return {"got": len(zlib.decompress(bomb))}
    """,
        OutcomeKind.MEMORY,
        limits=Limits(memory_bytes=32 * MIB),
        held_by=_BOUNDED,
    ),
    attack(
        "recurses_without_end",
        """
    import sys
    def deeper(depth, kept):
        return deeper(depth - 1, bytes(256)) if depth else 1
    def run(**_):
        sys.setrecursionlimit(1 << 30)
        return {"got": deeper(100_000, b"")}
    """,
        OutcomeKind.MEMORY,
        OutcomeKind.CRASHED,
        OutcomeKind.TOOL_ERROR,
        limits=Limits(memory_bytes=32 * MIB),
        held_by=_BOUNDED,
    ),
    attack(
        "spins",
        """
    def run(**_):
        while True:
            pass
    """,
        OutcomeKind.TIMEOUT,
        limits=_SOON,
        held_by=(Guard.DEADLINE,),
        sign=_LATE,
    ),
    attack(
        "sleeps",
        "import time\ndef run(**_):\n    time.sleep(60)\n",
        OutcomeKind.TIMEOUT,
        limits=_SOON,
        held_by=(Guard.DEADLINE,),
        sign=_LATE,
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
        limits=Limits(wall_seconds=20, cpu_seconds=0.8),
        held_by=_BOUNDED,
        sign="it ended as TIMEOUT",
    ),
    attack(
        "hides_in_a_library_that_cannot_be_interrupted",
        """
    import re
    def run(**_):
        re.match("(a+)+$", "a" * 60 + "b")
    """,
        OutcomeKind.TIMEOUT,
        limits=_SOON,
        held_by=(Guard.DEADLINE,),
        sign=_LATE,
    ),
    attack(
        "writes_out_a_number_that_never_ends",
        """
    import sys
    def run(**_):
        getattr(sys, "set_int_max_str_digits", print)(0)
        return {"got": str(1 << 40_000_000)[:1]}
    """,
        OutcomeKind.TIMEOUT,
        limits=_SOON,
        held_by=(Guard.DEADLINE,),
        sign=_LATE,
    ),
    attack(
        "raises_to_a_huge_power",
        "def run(**_):\n    return {'got': 9 ** 9 ** 9}\n",
        OutcomeKind.TIMEOUT,
        OutcomeKind.MEMORY,
        limits=_SOON,
        held_by=(Guard.DEADLINE,),
        sign=_LATE,
    ),
    attack(
        "floods_stdout",
        """
    def run(**_):
        while True:
            os.write(1, b"x" * 65536)
    """,
        OutcomeKind.OUTPUT_LIMIT,
        held_by=(Guard.BOUNDS,),
        sign="it ended as TIMEOUT",
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
        held_by=(Guard.BOUNDS,),
        sign="it ended as TIMEOUT",
    ),
    attack(
        "floods_both_streams_at_once",
        """
    import threading
    def flood(number):
        while True:
            os.write(number, b"\\n" * 4096)
    def run(**_):
        threading.Thread(target=flood, args=(1,)).start()
        flood(2)
    """,
        OutcomeKind.OUTPUT_LIMIT,
        held_by=(Guard.BOUNDS,),
        sign="it ended as TIMEOUT",
    ),
    attack(
        "says_more_than_may_be_kept",
        """
    def run(**_):
        for number in (1, 2):
            for _ in range(16):
                os.write(number, b"\\x1b[31m\\0\\xff" * 8192)
        return {"got": 0}
    """,
        held_by=(Guard.BOUNDS,),
        sign="stdout has",
    ),
    attack(
        "fills_the_disk",
        """
    def run(scratch, **_):
        written, number = 0, 0
        while number < 40:
            number += 1
            try:
                with open(f"{scratch}/{number}", "wb", buffering=0) as file:
                    while written < 20 << 20:
                        written += file.write(b"x" * 65536)
            except OSError:
                pass
        return {"got": max(0, written - (16 << 20))}
    """,
        held_by=(Layer.ROOT, Layer.LANDLOCK, Layer.RLIMITS),
    ),
    attack(
        "fills_the_disk_with_empty_files",
        """
    def run(scratch, **_):
        made = 0
        try:
            while made < 1100:
                os.close(os.open(f"{scratch}/{made}", os.O_CREAT))
                made += 1
        except OSError:
            pass
        return {"got": max(0, made - 1024)}
    """,
        held_by=(Layer.ROOT, Layer.LANDLOCK),
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
        held_by=_BOUNDED,
    ),
    attack(
        "leaves_descriptors_in_flight",
        """
    import socket, time
    def run(**_):
        sent, pairs = 0, []
        try:
            while sent < 3000:  # the kernel counts them for a user, and so for every sandbox and the zygote
                pairs.append(socket.socketpair())
                socket.send_fds(pairs[-1][0], [b"x"], [0] * 250)
                sent += 250
        except OSError:
            pass
        time.sleep(0.05)
        return {"got": max(0, sent - 1500)}
    """,
        limits=Limits(open_files=1024),
        held_by=_BOUNDED,
    ),
    attack(
        "queues_signals_without_end",
        """
    import signal
    def run(**_):
        # What waits is kept in the kernel's memory, and counted for a user over all sandboxes.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
        for _ in range(3000):
            os.kill(os.getpid(), signal.SIGRTMIN)
        waiting = 0
        while signal.sigtimedwait([signal.SIGRTMIN], 0):
            waiting += 1
        return {"got": max(0, waiting - 1000)}
    """,
        held_by=_BOUNDED,
    ),
    attack(
        "hoards_data_in_pipes",
        """
    import fcntl
    def run(**_):
        hoarded = 0
        try:
            while hoarded < 256:
                reading, writing = os.pipe()
                os.set_blocking(writing, False)
                tried(lambda: fcntl.fcntl(writing, 1031, 1 << 20))  # F_SETPIPE_SZ
                hoarded += 1
                os.write(writing, b"x" * 65536)
        except OSError:
            pass
        return {"got": max(0, hoarded - 32)}
    """,
        held_by=_BOUNDED,
    ),
]
