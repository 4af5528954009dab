"""Hostile programs that look around: /proc, environment, descriptors, memory."""

from interlock_sandbox import Layer, Limits
from tests.sandbox.attacks.attack import MIB, Guard, attack

SURROUNDINGS = [
    attack(
        "reads_proc",
        """
    def run(parent, **_):
        names = ["/proc/kallsyms", "/proc/meminfo", "/proc/cmdline", "/proc/sys/kernel/hostname",
                     "/proc/config.gz",
                 "/proc/keys", "/proc/mounts/../partitions", "/proc/version", f"/proc/{parent}/environ",
                 f"/proc/{parent}/maps", f"/proc/{parent}/cmdline", "/proc/self/../2/environ"]
        return {"got": tried(*(lambda name=name: open(name, "rb").read(200).hex() for name in names))}
    """,
        held_by=(Layer.ROOT, Layer.LANDLOCK),
    ),
    attack(
        "writes_proc",
        """
    def run(**_):
        names = ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches",
                 "/proc/self/uid_map", "/proc/self/setgroups", "/proc/self/mem", "/proc/1/mem",
                 "/proc/self/oom_score_adj", "/proc/self/attr/current", "/proc/self/comm",
                 "/proc/self/coredump_filter"]
        return {"got": tried(*(lambda name=name: os.open(name, os.O_WRONLY) for name in names))}
    """,
    ),
    attack(
        "reads_papers_of_other_processes",
        """
    def run(parent, victim, **_):
        papers = ("cmdline", "status", "stat", "maps", "environ", "cgroup", "io", "wchan")
        return {"got": tried(*(lambda pid=pid, name=name: open(f"/proc/{pid}/{name}", "rb").read(99).hex()
                                   for pid in (victim, parent, os.getppid()) for name in papers))}
    """,
    ),
    attack(
        "takes_descriptors_of_other_processes",
        """
    def run(**_):
        got = []
        for pid in (name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()):
            got += tried(lambda: [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")])
            got += tried(lambda: os.open(f"/proc/{pid}/fd/0", os.O_RDONLY | os.O_NONBLOCK))
        return {"got": got[:20]}
    """,
    ),
    attack(
        "looks_for_other_processes",
        """
    def run(parent, victim, **_):
        seen = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
        alive = []
        for pid in [*range(2, 3000), parent, victim]:
            try:
                os.kill(pid, 0)
                alive.append(pid)
            except OSError:
                pass
        return {"got": seen + alive}
    """,
    ),
    attack(
        "gathers_every_secret_it_can_see",
        """
    def run(canary, **_):
        found = dict(os.environ)
        for name in ("environ", "cmdline", "mountinfo", "maps", "cgroup", "status", "limits", "stat"):
            try:
                found[name] = open(f"/proc/self/{name}", "rb").read().decode("latin-1")
            except OSError:
                pass
        for number in range(64):
            try:
                found[str(number)] = os.pread(number, 64, 0)
            except OSError:
                pass
        import gc, sys
        strings = [text for text in gc.get_objects() if isinstance(text, str)]
        print(found, strings, [repr(frame) for frame in sys._current_frames().values()])
        return {"got": {}}
    """,
        limits=Limits(stdout_bytes=MIB),
        held_by=(Guard.PROCESS,),
        sign="it learnt a secret",
    ),
    attack(
        "finds_its_environment_bare",
        """
    def run(**_):
        expected = {"HOME", "TMPDIR", "LANG", "TZ"}
        inherited = tried(lambda: [line for line in open("/proc/self/environ").read().split("\\0") if line])
        return {"got": sorted(set(os.environ) - expected) + [line for lines in inherited for line in lines]}
    """,
        held_by=(Guard.PROCESS,),
    ),
    attack(
        "uses_inherited_descriptors",
        """
    def run(**_):
        found = []
        for number in range(4, 4096):
            try:
                os.fstat(number)
                found.append(number)
            except OSError:
                pass
        return {"got": found}
    """,
        held_by=(Guard.PROCESS,),
    ),
    attack(
        "takes_a_handle_on_its_host",
        """
    import socket
    def run(**_):
        channel = socket.socket(fileno=os.dup(3))
        numbers = (17, 59, 31, 77)  # SO_PEERCRED, SO_PEERGROUPS, SO_PEERSEC, SO_PEERPIDFD
        return {"got": tried(*(lambda n=n: [n, channel.getsockopt(1, n, 64).hex()] for n in numbers))}
    """,
        held_by=(Layer.SECCOMP,),
    ),
    attack(
        "is_told_of_what_others_read",
        """
    import fcntl, signal, time
    def run(os_module, **_):
        told = []
        signal.signal(signal.SIGIO, lambda *_: told.append("told"))
        folder = os.path.dirname(os_module)
        watched = os.open(folder, os.O_RDONLY)
        leased = os.open(os_module, os.O_RDONLY)
        got = tried(
            lambda: fcntl.fcntl(watched, 1026, 0x80000007) or "watches",  # F_NOTIFY
            lambda: fcntl.fcntl(leased, 1024, fcntl.F_RDLCK) or "leased",  # F_SETLEASE
            lambda: fcntl.fcntl(leased, 10, signal.SIGUSR1) or "signals",  # F_SETSIG
        )
        os.read(leased, 1)
        time.sleep(0.01)
        return {"got": got + told}
    """,
        held_by=(Layer.SECCOMP,),
    ),
    attack(
        "reads_the_parents_memory",
        """
    def run(parent, victim, calls, **_):
        number = calls["process_vm_readv"]
        buffer = ctypes.create_string_buffer(64)
        results = [call(number, pid, ctypes.byref(buffer), 1, ctypes.byref(buffer), 1, 0)[0]
                       for pid in (1, parent, victim)]
        opened = tried(lambda: os.open(f"/proc/{parent}/mem", os.O_RDONLY), lambda: os.pidfd_open(victim))
        return {"got": [r for r in results if r >= 0] + opened}
    """,
        held_by=(Layer.SECCOMP,),
    ),
    attack(
        "learns_who_lives",
        """
    def run(parent, victim, calls, **_):
        errors = [call(calls["rt_sigqueueinfo"], pid, 0, None)[1] for pid in (victim, parent)]
        for pid in (victim, parent):
            try:
                os.kill(pid, 0)
                errors.append(0)
            except OSError as error:
                errors.append(error.errno)
        return {"got": [] if errors[2:] == [3, 3] else errors}  # ESRCH: it does not exist
    """,
    ),
]
