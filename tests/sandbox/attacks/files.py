"""Hostile programs against the file system."""

from interlock_sandbox import Layer
from tests.sandbox.attacks.attack import attack

_TREE = (Layer.ROOT, Layer.LANDLOCK)
"""What keeps the host's files away; either alone does."""

_LEARNT = "it learnt a secret"
_WRITTEN = "the ledger was written to"

FILES = [
    attack(
        "reads_a_file_of_the_host",
        """
    def run(canary, folder, **_):
        return {"got": tried(
            lambda: open(canary).read(),
            lambda: os.listdir(folder),
            lambda: open("/proc/1/root" + canary).read(),
            lambda: open("/proc/self/cwd/../../../.." + canary).read(),
            lambda: open("/old" + canary).read(),
            lambda: open("/tmp/old" + canary).read(),
        )}
    """,
        held_by=_TREE,
        sign=_LEARNT,
    ),
    attack(
        "reads_what_every_host_has",
        """
    def run(**_):
        names = ["/etc/shadow", "/etc/hostname", "/etc/hosts", "/etc/machine-id", "/var/log", "/root",
                 "/home", "/sys/kernel", "/run", "/boot", "/usr/bin", "/bin/sh", "/dev/shm", "/dev/tty",
                 "/dev/vda", "/dev/mem", "/dev/kmsg", "/dev/pts", "/dev/fuse", "/var/run/docker.sock"]
        def look(name):
            if os.path.isdir(name):
                return os.listdir(name)
            return open(name, "rb").read(64).hex()
        return {"got": tried(*(lambda name=name: look(name) for name in names))}
    """,
        held_by=_TREE,
    ),
    attack(
        "walks_everything_it_can_see",
        """
    def run(folder, **_):
        starts = [folder, "/", "/etc", "/usr", "/lib", "/var", "/tmp", "/dev", "/opt", "/srv", "/mnt", "..",
                      "/proc/self/fd"]
        seen = []
        for start in starts:
            for base, folders, files in os.walk(start):
                seen += [os.path.join(base, name) for name in folders + files]
                if len(seen) > 20000:
                    break
        bad = ("passwd-", "shadow", "canary", "ledger", "id_rsa", "sudoers", "hostname", "dpkg",
                   "site-packages/pip")
        return {"got": [name for name in seen if any(word in name for word in bad)][:20]}
    """,
        held_by=_TREE,
    ),
    attack(
        "reads_through_a_symbolic_link",
        """
    def run(canary, ledger, scratch, **_):
        os.symlink(canary, scratch + "/link")
        os.symlink("/", scratch + "/root")
        return {"got": tried(
            lambda: open(scratch + "/link").read(),
            lambda: open(scratch + "/root" + canary).read(),
            lambda: open(scratch + "/root" + ledger, "w").write("x"),
        )}
    """,
        held_by=_TREE,
        sign=_LEARNT,
    ),
    attack(
        "writes_through_a_hard_link",
        """
    def run(canary, ledger, scratch, **_):
        def by_descriptor():
            os.link(f"/proc/self/fd/{os.open(ledger, os.O_PATH)}", scratch + "/again", follow_symlinks=True)
            return open(scratch + "/again", "w").write("x")
        return {"got": tried(
            lambda: os.link(ledger, scratch + "/hard") or open(scratch + "/hard", "w").write("x"),
            lambda: os.link(canary, scratch + "/copy") or open(scratch + "/copy").read(),
            by_descriptor,
        )}
    """,
        held_by=_TREE,
        sign=_WRITTEN,
    ),
    attack(
        "goes_through_the_doors_in_proc",
        """
    import threading
    def run(canary, victim, parent, **_):
        doors = ["/proc/self/root", "/proc/thread-self/root", "/proc/1/root", "/proc/1/cwd/..",
                     f"/proc/self/task/{threading.get_native_id()}/root", f"/proc/{victim}/root",
                     f"/proc/{parent}/root", "/proc/self/fd/0/../..", "/proc/1/map_files/../root"]
        return {"got": tried(*(lambda door=door: open(door + canary).read() for door in doors))}
    """,
        held_by=_TREE,
        sign=_LEARNT,
    ),
    attack(
        "opens_by_paths_it_only_points_at",
        """
    def run(canary, **_):
        root = os.open("/", os.O_PATH)
        above = os.open("../../../../../../..", os.O_PATH | os.O_DIRECTORY)
        def reopened():
            pointer = os.open(canary, os.O_PATH)
            return open(f"/proc/self/fd/{pointer}").read()
        return {"got": tried(
            lambda: os.fdopen(os.open(canary.lstrip("/"), os.O_RDONLY, dir_fd=root)).read(),
            lambda: os.fdopen(os.open(canary.lstrip("/"), os.O_RDONLY, dir_fd=above)).read(),
            reopened,
            lambda: os.fchdir(root) or open("." + canary).read(),
        )}
    """,
        held_by=_TREE,
        sign=_LEARNT,
    ),
    attack(
        "reads_sys",
        """
    def run(**_):
        names = ["/sys", "/sys/class/net", "/sys/fs/cgroup", "/sys/kernel/mm", "/sys/devices", "/sys/module"]
        return {"got": tried(*(lambda name=name: os.listdir(name)[:9] for name in names))}
    """,
        held_by=_TREE,
    ),
    attack(
        "writes_to_files_of_the_host",
        """
    def run(ledger, folder, **_):
        return {"got": tried(
            lambda: open(ledger, "w").write("mine"),
            lambda: open(folder + "/planted", "w").write("mine"),
            lambda: os.unlink(ledger),
            lambda: os.rename(ledger, folder + "/moved"),
            lambda: os.chmod(ledger, 0),
            lambda: os.mkdir(folder + "/planted-folder"),
        )}
    """,
        held_by=_TREE,
        sign=_WRITTEN,
    ),
    attack(
        "empties_files_by_their_names",
        """
    def run(ledger, **_):
        return {"got": tried(lambda: os.truncate(ledger, 0) or "emptied", lambda: os.utime(ledger) or "aged")}
    """,
        held_by=_TREE,
        sign=_WRITTEN,
    ),
    attack(
        "moves_files_across_mounts",
        """
    import shutil
    def run(ledger, os_module, scratch, **_):
        open(scratch + "/mine", "w").write("mine")
        return {"got": tried(
            lambda: os.rename(ledger, scratch + "/moved") or "moved",
            lambda: os.replace(scratch + "/mine", ledger) or "replaced",
            lambda: os.rename(os_module, scratch + "/os.py") or "moved the runtime",
            lambda: os.rename("/dev/null", scratch + "/null") or "moved a device",
            lambda: shutil.move(ledger, scratch + "/moved"),
        )}
    """,
        held_by=_TREE,
        sign=_WRITTEN,
    ),
    attack(
        "writes_to_the_runtime",
        """
    def run(os_module, scratch, **_):
        folder = os.path.dirname(os_module)
        return {"got": tried(
            lambda: open(os_module, "a").write("# mine"),
            lambda: open(folder + "/sitecustomize.py", "w").write("# mine"),
            lambda: open(folder + "/__pycache__/mine.pyc", "w").write("mine"),
            lambda: os.chmod(os_module, 0o777),
            lambda: os.utime(os_module),
            lambda: os.unlink(os_module),
            lambda: open("/etc/passwd", "a").write("root::0:0::/:/bin/sh"),
            lambda: open("/planted", "w").write("mine"),
            lambda: os.link(os_module, scratch + "/linked"),
        )}
    """,
        held_by=_TREE,
    ),
    attack(
        "makes_devices_and_special_files",
        """
    import stat
    def run(scratch, **_):
        return {"got": tried(
            lambda: os.mknod(scratch + "/disk", stat.S_IFBLK | 0o666, os.makedev(254, 0)),
            lambda: os.mknod(scratch + "/memory", stat.S_IFCHR | 0o666, os.makedev(1, 1)),
            lambda: os.mkfifo(scratch + "/fifo"),
        )}
    """,
        held_by=(Layer.SECCOMP, Layer.LANDLOCK),
    ),
    attack(
        "runs_a_file_it_marked_setuid",
        """
    def run(scratch, **_):
        with open(scratch + "/program", "w") as file:
            file.write("#!/bin/sh\\nexit 7\\n")
        os.chmod(scratch + "/program", 0o6755)
        return {"got": tried(lambda: os.execv(scratch + "/program", ["program"]))}
    """,
        held_by=(*_TREE, Layer.SECCOMP),
        sign="it ended as CRASHED",
    ),
    attack(
        "watches_files",
        """
    def run(calls, folder, **_):
        watcher, _ = call(calls["inotify_init1"], 0)
        return {"got": [watcher] * (watcher >= 0) + reached(calls["fanotify_init"], 0x200, 0)}
    """,
        held_by=(Layer.SECCOMP,),
    ),
    attack(
        "crowds_the_disk_with_links_and_folders",
        """
    def run(scratch, **_):
        made = 0
        try:
            while made < 1100:
                os.mkdir(f"{scratch}/{made}")
                os.symlink("x", f"{scratch}/{made}/link")
                made += 2
        except OSError:
            pass
        return {"got": max(0, made - 1024)}
    """,
        held_by=_TREE,
    ),
    attack(
        "makes_files_larger_than_the_disk",
        """
    def run(scratch, **_):
        def far():
            file = os.open(scratch + "/far", os.O_CREAT | os.O_WRONLY)
            os.lseek(file, 1 << 33, os.SEEK_SET)
            return os.write(file, b"x")
        def reserved():
            file = os.open(scratch + "/reserved", os.O_CREAT | os.O_WRONLY)
            os.posix_fallocate(file, 0, 17 << 20)
            return os.fstat(file).st_size
        def sparse():
            open(scratch + "/sparse", "w").close()
            os.truncate(scratch + "/sparse", 1 << 30)
            return os.path.getsize(scratch + "/sparse")
        return {"got": tried(far, reserved, sparse)}
    """,
        held_by=(Layer.RLIMITS,),
    ),
]
