"""Hostile programs that abuse the way a result is returned."""

from interlock_sandbox import Limits, OutcomeKind
from tests.sandbox.attacks.attack import attack

_BAD = OutcomeKind.BAD_RESULT

_FORGE = """
import struct
def forge(kind, payload, length=None):
    os.write(3, struct.pack("!IB", len(payload) if length is None else length, kind) + payload)
def wait():
    import time
    time.sleep(30)
"""

_FORGED = (
    ("forges_a_result_that_is_not_json", "forge(4, b'{not json')", (_BAD,)),
    ("forges_an_infinite_number", "forge(4, b'1e999')", (_BAD,)),
    ("forges_duplicate_keys", 'forge(4, b\'{"a":1,"a":2}\')', (_BAD,)),
    ("forges_bytes_that_are_not_utf8", "forge(4, b'\"\\xff\\xfe\"')", (_BAD,)),
    ("forges_a_number_of_many_digits", "forge(4, b'9' * 100_000)", (_BAD,)),
    ("forges_deep_json", "forge(4, b'[' * 100_000 + b']' * 100_000)", (_BAD,)),
    ("forges_wide_and_deep_json", "forge(4, b'[' * 65 + b'[],' * 200_000 + b'1' + b']' * 65)", (_BAD,)),
    ("forges_a_length_of_4_gib", "forge(4, b'', 0xFFFFFFFF)", (OutcomeKind.OUTPUT_LIMIT,)),
    ("forges_a_kind_nobody_knows", "forge(77, b'')", (_BAD,)),
    ("forges_a_ready_frame", "forge(1, b'')", (_BAD,)),
    ("forges_a_program", "forge(3, b'{}')", (_BAD,)),
    ("forges_an_error_of_the_wrong_shape", "forge(5, b'{\"type\":1}')", (_BAD,)),
    ("sends_half_a_frame", "os.write(3, b'\\0\\0')", (OutcomeKind.TIMEOUT,)),
    ("closes_the_channel_and_stays", "os.close(3)", (OutcomeKind.TIMEOUT, OutcomeKind.CRASHED)),
    ("sends_garbage", "os.write(3, bytes(range(256)) * 300)", (_BAD, OutcomeKind.OUTPUT_LIMIT)),
)

RESULTS = [
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
    ),
    attack("returns_nan", "def run(**_):\n    return float('nan')\n", _BAD),
    attack("returns_half_a_surrogate_pair", "def run(**_):\n    return {'a': ['\\ud800']}\n", _BAD),
    attack("returns_a_nul", "def run(**_):\n    return {'a\\0': 1}\n", _BAD),
    attack("returns_an_object", "def run(**_):\n    return object()\n", _BAD),
    attack("returns_too_much", "def run(**_):\n    return 'x' * (2 << 20)\n", OutcomeKind.OUTPUT_LIMIT),
    attack(
        "patches_what_reports",
        """
    import json, os, signal
    def run(**_):
        def refuse(*a, **k):
            raise SystemExit
        os.write = json.dumps = json.JSONEncoder.encode = signal.pause = refuse
        import sys
        sys.stdout = sys.stderr = None
        return {"got": 0}
    """,
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
        OutcomeKind.OUTPUT_LIMIT,
        OutcomeKind.TOOL_ERROR,
    ),
    *(
        attack(
            name,
            f"{_FORGE}\ndef run(**_):\n    {body}\n    wait()\n",
            *kinds,
            limits=Limits(wall_seconds=1),
        )
        for name, body, kinds in _FORGED
    ),
]
