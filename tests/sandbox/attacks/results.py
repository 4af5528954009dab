"""Hostile programs that abuse the way a result is returned."""

from interlock_sandbox import Limits, OutcomeKind
from tests.sandbox.attacks.attack import MIB, Attack, Guard, attack

_BAD = OutcomeKind.BAD_RESULT
_MUCH = OutcomeKind.OUTPUT_LIMIT
_DONE = OutcomeKind.COMPLETED

_FORGE = """
import struct
def frame(kind, payload, length=None):
    return struct.pack("!IB", len(payload) if length is None else length, kind) + payload
def forge(*words):
    data = memoryview(frame(*words))
    while data:
        data = data[os.write(3, data):]
def wait():
    import time
    time.sleep(30)
"""

_BELIEVED = "it ended as COMPLETED"
_FELL = "the host fell over"
_WAITS = "it ended as TIMEOUT"
_LATE = "it ran past its deadline"

_FORGED = (
    ("forges_a_result_that_is_not_json", "forge(4, b'{not json')", _BAD, _FELL),
    ("forges_nothing", "forge(4, b'')", _BAD, _FELL),
    ("forges_two_values", "forge(4, b'1 2')", _BAD, _FELL),
    ("forges_an_infinite_number", "forge(4, b'1e999')", _BAD, _BELIEVED),
    ("forges_nan", "forge(4, b'[NaN, Infinity, -Infinity]')", _BAD, _BELIEVED),
    ("forges_duplicate_keys", 'forge(4, b\'{"a":1,"a":2}\')', _BAD, _BELIEVED),
    ("forges_bytes_that_are_not_utf8", "forge(4, b'\"\\xff\\xfe\"')", _BAD, _FELL),
    ("forges_another_encoding", "forge(4, '{\"got\":1}'.encode('utf-16'))", _BAD, _BELIEVED),
    ("forges_an_escaped_nul", 'forge(4, b\'{"a":"\\\\u0000"}\')', _BAD, _BELIEVED),
    ("forges_an_escaped_nul_in_a_key", "forge(4, b'{\"a\\\\u0000\":1}')", _BAD, _BELIEVED),
    ("forges_half_a_surrogate_pair", "forge(4, b'[\"\\\\ud800x\"]')", _BAD, _BELIEVED),
    ("forges_a_number_of_many_digits", "forge(4, b'9' * 100_000)", _BAD, _FELL),
    ("forges_deep_json", "forge(4, b'[' * 100_000 + b']' * 100_000)", _BAD, _FELL),
    (
        "forges_wide_and_deep_json",
        "forge(4, b'[' * 65 + b'[],' * 50_000 + b'1' + b']' * 65)",
        _BAD,
        _BELIEVED,
    ),
    ("forges_a_length_of_4_gib", "forge(4, b'', 0xFFFFFFFF)", _MUCH, _WAITS),
    ("forges_a_negative_length", "forge(4, b'{\"got\":0}', 0x80000000)", _MUCH, _WAITS),
    ("forges_megabytes", "forge(4, b'\"' + b'x' * (8 << 20) + b'\"')", _MUCH, _BELIEVED),
    ("forges_a_kind_nobody_knows", "forge(77, b'')", _BAD, _FELL),
    ("forges_a_ready_frame", "forge(1, b'{}')", _BAD, _BELIEVED),
    ("forges_a_failure_to_start", 'forge(2, b\'{"layer":"root","step":"x","errno":1}\')', _BAD, _BELIEVED),
    ("forges_a_program", "forge(3, b'{}')", _BAD, _BELIEVED),
    ("forges_a_call_to_a_host_it_has_not", 'forge(8, b\'{"method":"x","params":{}}\')', _BAD, _BELIEVED),
    ("forges_an_answer", "forge(9, b'1')", _BAD, _BELIEVED),
    ("forges_an_error_of_the_wrong_shape", "forge(5, b'{\"type\":1}')", _BAD, _BELIEVED),
    (
        "forges_an_error_of_many_words",
        'forge(5, b\'{"type":"%s","message":"%s","traceback":"%s"}\' % ((b"w" * 30_000,) * 3))',
        OutcomeKind.TOOL_ERROR,
        _BELIEVED,
    ),
    (
        "sends_garbage_after_its_result",
        "os.write(3, frame(4, b'{\"got\":0}') + b'\\xff' * 999)",
        _DONE,
        _WAITS,
    ),
    (
        "sends_two_results",
        'os.write(3, frame(4, b\'{"got":0}\') + frame(4, b\'{"got":"two"}\'))',
        _DONE,
        "it got two",
    ),
    ("sends_garbage", "os.write(3, bytes(range(1, 256)) * 300)", _MUCH, _WAITS),
)


def _returned(name: str, value: str, *kinds: OutcomeKind, sign: str) -> Attack:
    """A value that a host which runs the tool in itself passes on, or dies of."""
    source = f"def run(**_):\n    return {value}\n"
    return attack(name, source, *(kinds or (_BAD,)), held_by=(Guard.PROCESS,), sign=sign)


RESULTS = [
    _returned("returns_nan", "float('nan')", sign="the host passed on"),
    _returned("returns_infinity", "[{'a': float('-inf')}]", sign="the host passed on"),
    _returned("returns_half_a_surrogate_pair", "{'a': ['\\ud800']}", sign="the host passed on"),
    _returned("returns_half_a_surrogate_pair_as_a_key", "{'\\udfff': 1}", sign="the host passed on"),
    _returned("returns_a_nul", "{'a\\0': 1}", sign="the host passed on"),
    _returned("returns_the_same_key_twice", "{1: 'a', '1': 'b'}", sign="the host passed on"),
    _returned("returns_an_object", "object()", sign="the host died"),
    _returned("returns_a_number_of_many_digits", "10 ** 100_000", sign="the host died"),
    _returned("returns_too_much", "'x' * (2 << 20)", _MUCH, sign="the host passed on"),
    attack(
        "returns_a_number_it_was_told_not_to_write",
        """
    import sys
    def run(**_):
        getattr(sys, "set_int_max_str_digits", print)(0)
        return 10 ** 5000
    """,
        _BAD,
        held_by=(Guard.READING,),
        sign=_FELL,
    ),
    attack(
        "returns_what_is_nested_too_deep",
        """
    def run(**_):
        value = []
        for _ in range(200):
            value = [value]
        return value
    """,
        _BAD,
        held_by=(Guard.PROCESS,),
        sign="the host passed on",
    ),
    attack(
        "returns_what_is_nested_deeper_than_any_stack",
        """
    def run(**_):
        value = []
        for _ in range(100_000):
            value = [value]
        return value
    """,
        _BAD,
        OutcomeKind.CRASHED,
        held_by=(Guard.PROCESS,),
        sign="the host died",
    ),
    attack(
        "returns_what_contains_itself",
        """
    def run(**_):
        value = []
        value.append(value)
        return value
    """,
        _BAD,
        held_by=(Guard.PROCESS,),
        sign="the host died",
    ),
    attack(
        "returns_what_lies_about_itself",
        """
    class Endless(dict):
        def __len__(self):
            return 1
        def __bool__(self):
            return True
        def items(self):
            return ((n, bytearray(1 << 20)) for n in iter(int, 1))
        __iter__ = keys = items
        def __reduce__(self):
            os._exit(9)
    def run(**_):
        return Endless(a=1)
    """,
        _BAD,
        OutcomeKind.MEMORY,
        OutcomeKind.TIMEOUT,
        limits=Limits(wall_seconds=0.5, memory_bytes=64 * MIB),
        held_by=(Guard.PROCESS,),
        sign="the host",
    ),
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
        held_by=(Guard.PROCESS,),
        sign="the host died",
    ),
    attack(
        "raises_megabytes",
        "def run(**_):\n    raise ValueError('w' * (2 << 20))\n",
        OutcomeKind.TOOL_ERROR,
        held_by=(Guard.PROCESS,),
        sign="the host passed on",
    ),
    attack(
        "patches_what_reports",
        """
    import json, os, signal, sys
    def run(**_):
        def refuse(*a, **k):
            raise SystemExit
        os.write = json.dumps = json.JSONEncoder.encode = signal.pause = sys.exit = refuse
        sys.stdout = sys.stderr = None
        return {"got": 0}
    """,
        held_by=(Guard.PROCESS,),
        sign="the host died",
    ),
    attack(
        "never_lets_its_output_go",
        """
    import sys, time
    class Stuck:
        def write(self, text):
            return len(text)
        def flush(self):
            time.sleep(60)
    def run(**_):
        sys.stdout = sys.__stdout__ = Stuck()
        return {"got": 0}
    """,
        OutcomeKind.TIMEOUT,
        limits=Limits(wall_seconds=0.15),
        held_by=(Guard.DEADLINE,),
        sign=_LATE,
    ),
    attack(
        "prints_a_result_of_its_own",
        """
    import struct
    def run(**_):
        forged = b'{"got": "a forged result"}'
        os.write(1, forged + b"\\n" + struct.pack("!IB", len(forged), 4) + forged)
        return {"got": 0}
    """,
        held_by=(Guard.PROCESS,),
        sign="it got a forged result",
    ),
    attack(
        "sends_half_a_result_and_leaves",
        f"""{_FORGE}
def run(**_):
    try:
        forge(4, b'{{"got":', 99)
    finally:
        os._exit(0)
""",
        OutcomeKind.CRASHED,
        held_by=(Guard.PROCESS,),
        sign="the host died",
    ),
    attack(
        "sends_half_a_header",
        "import time\ndef run(**_):\n    os.write(3, b'\\0\\0')\n    time.sleep(60)\n",
        OutcomeKind.TIMEOUT,
        limits=Limits(wall_seconds=0.15),
        held_by=(Guard.DEADLINE,),
        sign=_LATE,
    ),
    attack(
        "sends_its_result_drop_by_drop",
        f"""{_FORGE}
def run(**_):
    import time
    forge(4, b'"', 1 << 20)
    while True:
        os.write(3, b"x")
        time.sleep(0.01)
""",
        OutcomeKind.TIMEOUT,
        limits=Limits(wall_seconds=0.15),
        held_by=(Guard.DEADLINE,),
        sign=_LATE,
    ),
    attack(
        "sends_descriptors_over_the_channel",
        """
    import socket
    def run(**_):
        channel = socket.socket(fileno=os.dup(3))
        for _ in range(50):
            socket.send_fds(channel, [b"\\0"], [0, 1, 2])
        return {"got": 0}
    """,
        _BAD,
        held_by=(Guard.READING,),
        sign=_FELL,
    ),
    *(
        attack(
            name,
            f"{_FORGE}\ndef run(**_):\n    {body}\n    wait()\n",
            kind,
            limits=Limits(wall_seconds=20),
            held_by=(Guard.READING,),
            sign=sign,
        )
        for name, body, kind, sign in _FORGED
    ),
]
