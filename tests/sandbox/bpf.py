"""A tiny interpreter of classic BPF, to ask a seccomp filter about calls without making them."""

import struct

RETURN, LOAD, AND, JUMP_EQUAL, JUMP_GREATER = 0x06, 0x20, 0x54, 0x15, 0x25


def decide(program: bytes, *, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the filter answers to one call."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=iIQ6Q", number if number < 1 << 31 else number - (1 << 32), arch, 0, *padded)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, on_true, on_false, k = instructions[at]
        at += 1
        if code == RETURN:
            return int(k)
        if code == LOAD:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == AND:
            accumulator &= k
        elif code == JUMP_EQUAL:
            at += on_true if accumulator == k else on_false
        elif code == JUMP_GREATER:
            at += on_true if accumulator > k else on_false
        else:
            raise AssertionError(f"instruction {code:#x} is not one that the filter uses")
