import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock_sandbox.inside.seccomp import (
    ABSENT,
    ALLOW,
    ALLOWED,
    CHECKED,
    ERRNO,
    HIGHEST_KNOWN,
    KILL_PROCESS,
    SIGNALS,
    build_filter,
)
from interlock_sandbox.inside.syscall_numbers import ARCHITECTURES, NUMBERS, Architecture
from tests.sandbox.bpf import decide
from tests.sandbox.denied_calls import ALL_DENIED

EPERM, ENOSYS = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda a: a.name)
words = st.integers(min_value=0, max_value=(1 << 64) - 1)


def answer(architecture: Architecture, name: str, *arguments: int) -> int:
    number = architecture.number(name)
    assert number is not None
    program = build_filter(architecture, own_process_namespace=True)
    return decide(program, arch=architecture.audit_arch, number=number, arguments=arguments)


@each_architecture
def test_allowed_calls_pass_and_all_others_fail(architecture: Architecture) -> None:
    program = build_filter(architecture, own_process_namespace=True)
    allowed = {architecture.number(name) for name in (*ALLOWED, *SIGNALS)}
    judged = {architecture.number(name) for name in CHECKED}
    absent = {architecture.number(name) for name in ABSENT}
    for number in range(HIGHEST_KNOWN + 50):
        if number in judged:
            continue
        decided = decide(program, arch=architecture.audit_arch, number=number)
        if number in allowed:
            assert decided == ALLOW
        else:
            assert decided == (ENOSYS if number in absent or number > HIGHEST_KNOWN else EPERM)


@pytest.mark.parametrize("column", [0, 1])
def test_no_dangerous_call_is_allowed(column: int) -> None:
    architecture = next(a for a in ARCHITECTURES.values() if a.column == column)
    allowed = {architecture.number(name) for name in (*ALLOWED, *SIGNALS, *CHECKED)}
    dangerous = {row[column] for row in ALL_DENIED.values()} - {None}
    assert not allowed & dangerous
    assert len(dangerous) > 80


@each_architecture
@given(flags=words)
def test_clone_makes_threads_and_nothing_else(architecture: Architecture, flags: int) -> None:
    thread = bool(flags & 0x10000) and not flags & 0x7E020000
    assert answer(architecture, "clone", flags) == (ALLOW if thread else EPERM)


@each_architecture
def test_a_thread_as_the_c_library_makes_it_is_allowed(architecture: Architecture) -> None:
    assert answer(architecture, "clone", 0x3D0F00) == ALLOW
    assert answer(architecture, "clone", 0x1200011) == EPERM  # fork
    assert answer(architecture, "clone3", 0, 88) == ENOSYS


@each_architecture
@given(family=words, kind=words)
def test_only_connected_unix_pairs_can_be_made(architecture: Architecture, family: int, kind: int) -> None:
    fine = family & 0xFFFFFFFF == 1 and kind & 0xF in (1, 5)
    assert answer(architecture, "socketpair", family, kind) == (ALLOW if fine else EPERM)


@each_architecture
@pytest.mark.parametrize(
    ("call", "arguments", "allowed"),
    [
        ("socketpair", (1, 1 | 0o2000000), True),
        ("socketpair", (1, 2), False),
        ("socketpair", (2, 1), False),
        ("ioctl", (0, 0x5401), True),
        ("ioctl", (0, 0x5412), False),
        ("ioctl", (0, 0x541C), False),
        ("ioctl", (0, 0x1_0000_5412), False),
        ("prctl", (15,), True),
        ("prctl", (22, 2), False),
        ("prctl", (38, 1), False),
        ("futex", (0, 0x80), True),
        ("futex", (0, 6), False),
        ("futex", (0, 0x80 | 13), False),
        ("prlimit64", (0, 7), True),
        ("prlimit64", (1, 7), False),
        ("fcntl", (3, 4), True),
        ("fcntl", (3, 1030), True),
        ("fcntl", (3, 1024), False),
        ("fcntl", (3, 1026), False),
        ("fcntl", (3, 0x1_0000_0402), False),
        ("fcntl", (3, 1031), False),
        ("getsockopt", (3, 1, 3), True),
        ("getsockopt", (3, 1, 17), False),
        ("getsockopt", (3, 1, 77), False),
        ("getsockopt", (3, 6, 3), False),
    ],
)
def test_calls_that_are_judged_by_their_arguments(
    architecture: Architecture, call: str, arguments: tuple[int, ...], *, allowed: bool
) -> None:
    assert answer(architecture, call, *arguments) == (ALLOW if allowed else EPERM)


@each_architecture
@given(number=st.integers(0, (1 << 32) - 1), arch=st.integers(0, (1 << 32) - 1))
def test_another_architecture_is_fatal(architecture: Architecture, number: int, arch: int) -> None:
    program = build_filter(architecture, own_process_namespace=True)
    if arch != architecture.audit_arch:
        assert decide(program, arch=arch, number=number) == KILL_PROCESS


def test_x32_numbers_are_unknown() -> None:
    x86 = ARCHITECTURES["x86_64"]
    program = build_filter(x86, own_process_namespace=True)
    for number in range(600):
        assert decide(program, arch=x86.audit_arch, number=0x40000000 | number) == ENOSYS


@each_architecture
def test_signals_are_refused_where_processes_are_shared(architecture: Architecture) -> None:
    program = build_filter(architecture, own_process_namespace=False)
    for name in SIGNALS:
        number = architecture.number(name)
        assert number is not None
        assert decide(program, arch=architecture.audit_arch, number=number, arguments=(1, 9)) == EPERM


def test_every_name_has_a_number_on_every_architecture_that_has_the_call() -> None:
    for name in (*ALLOWED, *SIGNALS, *CHECKED, *ABSENT):
        assert NUMBERS[name][0] is not None, name
    for column in (0, 1):
        numbers = [row[column] for row in NUMBERS.values() if row[column] is not None]
        assert len(numbers) == len(set(numbers))
