"""Hostile programs against the kernel itself."""

from interlock_sandbox import Layer, OutcomeKind
from tests.sandbox.attacks.attack import Attack, attack

_CALLS = (Layer.SECCOMP,)
_CALLS_AND_MOUNTS = (Layer.SECCOMP, Layer.LANDLOCK)
"""Landlock forbids every change of mounts too."""


def _asks(name: str, *lines: str, held_by: tuple[Layer, ...] = _CALLS) -> Attack:
    """A program of a few calls; `got` gathers what they gave."""
    body = "".join(f"    {line}\n" for line in ("got = []", *lines, 'return {"got": got}'))
    return attack(name, f"def run(calls, scratch, os_module, **_):\n{body}", held_by=held_by)


KERNEL = [
    attack(
        "makes_every_forbidden_call",
        """
    def run(calls, **_):
        got = {}
        for name, number in calls.items():
            found = reached(number, -1, 0, 0, 0, 0, 0)
            if found:
                got[name] = found
        return {"got": got}
    """,
        held_by=_CALLS,
    ),
    attack(
        "makes_namespaces_by_clone",
        """
    def run(calls, **_):
        import platform
        clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
        got = []
        for flags in (17, 0x10000000 | 17, 0x20000 | 17, 0x40000000 | 17, 0x10000000, 0):
            result, _ = call(clone, flags, 0, 0, 0, 0)
            if result == 0:
                os._exit(0)
            if result > 0:
                got.append(flags)
        result, error = call(435, 0, 0)
        return {"got": got + ([] if error == 38 else [error])}
    """,
        held_by=_CALLS,
    ),
    _asks(
        "hides_its_flags_in_a_struct",
        "request = (ctypes.c_uint64 * 11)()",
        "request[4] = 17",
        "result, error = call(435, request, 88)  # clone3",
        "if result == 0:",
        "    os._exit(0)",
        "got += [result] * (result > 0)",
    ),
    _asks(
        "makes_namespaces_by_unshare",
        "for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000, 0x4000000, 0x2000000, 0x80):",
        "    if call(calls['unshare'], flag)[0] == 0:",
        "        got.append(hex(flag))",
    ),
    _asks(
        "enters_a_namespace",
        "call(calls['unshare'], 0x14000000)",
        "door = os.open('/proc/self/ns/uts', os.O_RDONLY)",
        "got += ['entered'] * (call(calls['setns'], door, 0)[0] == 0)",
    ),
    _asks(
        "mounts_a_file_system",
        "call(calls['unshare'], 0x10020000)",
        "got += ['mounted'] * (call(calls['mount'], b'none', b'/tmp', b'tmpfs', 0, None)[0] == 0)",
        held_by=_CALLS_AND_MOUNTS,
    ),
    _asks(
        "mounts_by_the_newer_calls",
        "call(calls['unshare'], 0x10020000)",
        "opened = [call(calls['fsopen'], b'tmpfs', 0)[0], call(calls['open_tree'], -100, b'/', 1)[0]]",
        "got += [number for number in opened if number >= 0]",
        "got += reached(calls['fsmount'], -1, 0, 0) + reached(calls['move_mount'], -1, b'', -1, b'', 4)",
        "got += reached(calls['mount_setattr'], -1, b'', 0x1000, None, 0)",
    ),
    _asks(
        "takes_mounts_away",
        "call(calls['unshare'], 0x10020000)",
        "call(calls['mount'], b'none', b'/tmp', b'tmpfs', 0, None)",
        "got += ['unmounted'] * (call(calls['umount2'], b'/tmp', 2)[0] == 0)",
        "got += reached(calls['pivot_root'], b'/nowhere', b'/nowhere')",
        held_by=_CALLS_AND_MOUNTS,
    ),
    _asks(
        "moves_its_root",
        "call(calls['unshare'], 0x10000000)",
        "got += ['moved'] * (call(calls['chroot'], b'/tmp')[0] == 0)",
    ),
    _asks(
        "executes_from_memory",
        "number, _ = call(calls['memfd_create'], b'program', 0)",
        "got += [number] * (number >= 0) + reached(calls['memfd_secret'], 1 << 20)",
        "got += reached(calls['execveat'], number, b'', None, None, 0x1000)",
    ),
    _asks(
        "is_traced",
        "got += [['attached', pid] for pid in (1, 2) if call(calls['ptrace'], 0x4206, pid, 0, 0)[0] == 0]",
        "got += ['traced'] * (call(calls['ptrace'], 0, 0, 0, 0)[0] == 0)",
    ),
    _asks(
        "takes_descriptors_by_process",
        "process, _ = call(calls['pidfd_open'], os.getpid(), 0)",
        "taken, _ = call(calls['pidfd_getfd'], process, 3, 0)",
        "got += [number for number in (process, taken) if number >= 0]",
        "got += reached(calls['kcmp'], os.getpid(), os.getpid(), 0, 0, 1)",
    ),
    _asks(
        "leaves_a_key_in_a_keyring",
        "got += [number for number in (call(calls['add_key'], b'user', b'interlock', b'x', 1, ring)[0]",
        "                              for ring in (-1, -2, -3, -4, -5)) if number >= 0]",
        "got += reached(calls['keyctl'], 0, -2, 1) + reached(calls['request_key'], b'user', b'x', None, -2)",
    ),
    _asks("loads_a_program_into_the_kernel", "got += reached(calls['bpf'], 7, b'', 1 << 20)"),
    _asks(
        "opens_a_ring_of_requests",
        "ring, _ = call(calls['io_uring_setup'], 4, ctypes.create_string_buffer(120))",
        "got += [ring] * (ring >= 0) + reached(calls['io_uring_register'], -1, 0, None, 0)",
        "got += reached(calls['io_uring_enter'], -1, 1, 0, 0, None, 0)",
    ),
    _asks(
        "counts_events_of_the_processor",
        "got += reached(calls['perf_event_open'], ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    ),
    _asks(
        "handles_page_faults_itself",
        "number, _ = call(calls['userfaultfd'], 1)",
        "got += [number] * (number >= 0)",
    ),
    _asks(
        "names_files_by_handles",
        "handle = ctypes.create_string_buffer(b'\\x80\\0\\0\\0', 256)",
        "named, _ = call(calls['name_to_handle_at'], -100, b'/tmp', handle, ctypes.byref(ctypes.c_int()), 0)",
        "got += ['named'] * (named == 0)",
        "opened, _ = call(calls['open_by_handle_at'], os.open('/tmp', os.O_RDONLY), handle, 0)",
        "got += [opened] * (opened >= 0)",
    ),
    _asks(
        "sets_what_a_process_may_set_of_itself",
        "settings = {'dumpable': (4, 1), 'reaper': (36, 1), 'tracer': (0x59616D61, -1), 'timing': (29, 1),",
        "            'memory map': (35, 1, 0), 'securebits': (28, 0), 'keeps capabilities': (8, 1)}",
        "got += [name for name, values in settings.items() if libc.prctl(*values, 0, 0, 0) == 0]",
    ),
    _asks(
        "changes_its_personality",
        "old, _ = call(calls['personality'], 0x0440000)  # no randomisation, everything readable executable",
        "got += [old] * (old >= 0)",
    ),
    _asks(
        "leaves_shared_memory_and_queues",
        "made = [call(calls['shmget'], 0, 4096, 0o1666)[0], call(calls['semget'], 0, 1, 0o1666)[0],",
        "        call(calls['msgget'], 0, 0o1666)[0]]",
        "got += [number for number in made if number >= 0]",
        "got += reached(calls['mq_open'], b'mine', 0o102, 0o666, None)",
    ),
    _asks(
        "splices_pages_of_the_runtime",
        "reading, writing = os.pipe()",
        "file = os.open(os_module, os.O_RDONLY)",
        "moved, _ = call(calls['splice'], file, None, writing, None, 64, 0)",
        "got += [moved] * (moved > 0) + reached(calls['vmsplice'], -1, None, 0, 0)",
        "got += reached(calls['tee'], -1, -1, 1, 0)",
    ),
    _asks(
        "keeps_pages_in_memory",
        "page = ctypes.create_string_buffer(8192)",
        "got += ['locked'] * (call(calls['mlock'], page, 4096)[0] == 0)",
        "got += ['locked all'] * (call(calls['mlockall'], 2)[0] == 0)",
        held_by=(Layer.SECCOMP, Layer.RLIMITS),
    ),
    _asks(
        "claims_a_processor",
        "mask = ctypes.byref(ctypes.c_ulong(1))",
        "got += ['pinned'] * (call(calls['sched_setaffinity'], 0, 8, mask)[0] == 0)",
        "batch, zero = 3, ctypes.byref(ctypes.c_int(0))",
        "got += ['scheduled'] * (call(calls['sched_setscheduler'], 0, batch, zero)[0] == 0)",
        "got += ['first'] * (call(calls['ioprio_set'], 1, 0, 1 << 13 | 0)[0] == 0)",
    ),
    _asks(
        "sets_timers_that_signal",
        "made, _ = call(calls['timer_create'], 1, None, ctypes.byref(ctypes.c_int()))",
        "got += ['made'] * (made == 0)",
    ),
    _asks(
        "restricts_itself_anew",
        "got += reached(calls['seccomp'], 1, 0, None)",
        "got += reached(calls['landlock_create_ruleset'], None, 0, 1)",
        "got += reached(calls['landlock_restrict_self'], -1, 0)",
    ),
    attack(
        "types_into_a_terminal",
        """
    import fcntl
    def run(**_):
        terminals = tried(lambda: list(os.openpty()))
        numbers = [0, 1, 2, 3, *(number for pair in terminals for number in pair)]
        return {"got": tried(*(
            lambda request=request, number=number: fcntl.ioctl(number, request, b"x" * 64).hex()
            for request in (0x5412, 0x541C, 0x5403, 0x5410, 0x4004667F, 0x40045431) for number in numbers
        ))}
    """,
    ),
    attack(
        "becomes_somebody_else",
        """
    def run(**_):
        import resource
        return {"got": tried(
            lambda: os.setuid(0) or "root",
            lambda: os.setgid(0) or "root's group",
            lambda: os.setgroups([0]) or "root's groups",
            lambda: os.chroot("/tmp") or "another root",
            lambda: os.nice(-5),
            lambda: resource.setrlimit(resource.RLIMIT_NPROC, (9999, 9999)) or "more processes",
            lambda: resource.setrlimit(resource.RLIMIT_CPU, (9999, 9999)) or "more time",
            lambda: resource.prlimit(1, resource.RLIMIT_AS, (-1, -1)),
        )}
    """,
        held_by=(Layer.RLIMITS,),
    ),
    attack(
        "uses_the_32_bit_doors",
        """
    import mmap, platform
    def run(**_):
        x32 = [n for n in (0, 39, 41, 57, 59, 520) if call(0x40000000 + n, 0, 0, 0)[0] >= 0]
        if x32 or platform.machine() != "x86_64":
            return {"got": x32}
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        return {"got": ctypes.CFUNCTYPE(ctypes.c_int)(address)()}
    """,
        OutcomeKind.CRASHED,
        held_by=_CALLS,
    ),
]
