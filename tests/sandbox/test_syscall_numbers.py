"""The numbers of system calls against the kernel's headers, where a host has them."""

import re
from pathlib import Path

import pytest

from interlock_sandbox.inside.syscall_numbers import NUMBERS
from tests.sandbox.denied_calls import ALL_DENIED

# aarch64 has the generic numbers, which every architecture's headers bring along.
_HEADERS = {0: "x86_64-linux-gnu/asm/unistd_64.h", 1: "asm-generic/unistd.h"}
_DEFINITION = re.compile(r"#define __NR(?:3264)?_(\w+)\s+(\d+)")
# The generic header names calls by what they are on 64 bits by further definitions.
_ALIASES = {"newfstatat": "fstatat"}


@pytest.mark.parametrize("column", [0, 1], ids=["x86_64", "aarch64"])
def test_every_number_is_that_of_the_kernels_headers(column: int) -> None:
    header = Path("/usr/include") / _HEADERS[column]
    if not header.is_file():
        pytest.skip(f"this host has no {header}")
    defined = {name: int(number) for name, number in _DEFINITION.findall(header.read_text())}
    wrong = {}
    compared = 0
    for name, numbers in (NUMBERS | ALL_DENIED).items():
        theirs = defined.get(name, defined.get(_ALIASES.get(name, "")))
        if theirs is None and numbers[column] is None:
            continue
        compared += 1
        if theirs is not None and numbers[column] != theirs:
            wrong[name] = (numbers[column], theirs)
    assert wrong == {}
    assert compared > 150
