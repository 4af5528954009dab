"""Hostile programs against the file system."""

from tests.sandbox.attacks.attack import attack

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
    ),
    attack(
        "walks_everything_it_can_see",
        """
    def run(folder, **_):
        starts = ["/", "/etc", "/usr", "/lib", "/var", "/tmp", "/dev", "/opt", "/srv", "/mnt", "..",
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
    ),
    attack(
        "reads_through_a_symbolic_link",
        """
    def run(canary, ledger, **_):
        os.symlink(canary, "/tmp/link")
        os.symlink("/", "/tmp/root")
        return {"got": tried(
            lambda: open("/tmp/link").read(),
            lambda: open("/tmp/root" + canary).read(),
            lambda: open("/tmp/root" + ledger, "w").write("x"),
        )}
    """,
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
    ),
    attack(
        "writes_to_the_runtime",
        """
    def run(os_module, **_):
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
            lambda: os.link(os_module, "/tmp/linked"),
        )}
    """,
    ),
    attack(
        "makes_devices_and_special_files",
        """
    import stat
    def run(**_):
        return {"got": tried(
            lambda: os.mknod("/tmp/disk", stat.S_IFBLK | 0o666, os.makedev(254, 0)),
            lambda: os.mknod("/tmp/memory", stat.S_IFCHR | 0o666, os.makedev(1, 1)),
            lambda: os.mkfifo("/tmp/fifo"),
        )}
    """,
    ),
]
