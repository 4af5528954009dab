"""Hostile programs against the kernel itself."""

from interlock_sandbox import OutcomeKind
from tests.sandbox.attacks.attack import attack

KERNEL = [
    attack(
        "makes_every_forbidden_call",
        """
    def run(calls, **_):
        refused = {1, 38}  # EPERM, ENOSYS: anything else means that the kernel looked at the arguments
        got = {}
        for name, number in calls.items():
            result, error = call(number, -1, 0, 0, 0, 0, 0)
            if result != -1 or error not in refused:
                got[name] = [result, error]
        return {"got": got}
    """,
    ),
    attack(
        "makes_namespaces_by_clone",
        """
    def run(calls, **_):
        import platform
        clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
        got = []
        for flags in (17, 0x10000000 | 17, 0x20000 | 17, 0x40000000 | 17, 0x100 | 17, 0x10000000, 0):
            result, _ = call(clone, flags, 0, 0, 0, 0)
            if result == 0:
                os._exit(0)
            if result > 0:
                got.append(flags)
        result, error = call(435, 0, 0)
        return {"got": got + ([] if error == 38 else [error])}
    """,
    ),
    attack(
        "types_into_a_terminal",
        """
    import fcntl
    def run(**_):
        return {"got": tried(*(
            lambda request=request, number=number: fcntl.ioctl(number, request, b"x" * 8).hex()
            for request in (0x5412, 0x541C, 0x5403, 0x5410, 0x4004667F, 0x40045431) for number in (0, 1, 2, 3)
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
    ),
    attack(
        "uses_the_32_bit_doors",
        """
    import mmap, platform
    def run(**_):
        if platform.machine() != "x86_64":
            os._exit(1)
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
        address = ctypes.addressof(ctypes.c_char.from_buffer(code))
        return {"got": ctypes.CFUNCTYPE(ctypes.c_int)(address)()}
    """,
        OutcomeKind.CRASHED,
    ),
    attack(
        "uses_the_x32_numbers",
        """
    def run(**_):
        return {"got": [n for n in (0, 39, 41, 57, 59, 520) if call(0x40000000 + n, 0, 0, 0)[0] >= 0]}
    """,
    ),
]
