"""Hostile programs that multiply, stay, or kill."""

from interlock_sandbox import Limits, OutcomeKind
from tests.sandbox.attacks.attack import attack

PROCESSES = [
    attack(
        "starts_processes",
        """
    import subprocess, multiprocessing
    def run(**_):
        return {"got": tried(
            lambda: subprocess.run(["/bin/sh", "-c", "id"], capture_output=True, text=True).stdout,
            lambda: os.system("true") == 0 or (_ for _ in ()).throw(OSError()),
            lambda: os.fork() or os._exit(0),
            lambda: os.posix_spawn("/bin/true", ["true"], {}),
            lambda: multiprocessing.Process(target=print).start(),
            lambda: os.execv("/bin/true", ["true"]),
        )}
    """,
    ),
    attack(
        "forks_like_a_bomb",
        """
    def run(calls, **_):
        born = 0
        for _ in range(200):
            for attempt in (os.fork, lambda: call(calls["fork"])[0] if "fork" in calls else -1):
                try:
                    pid = attempt()
                except OSError:
                    continue
                if pid == 0:
                    import time
                    time.sleep(60)
                if pid > 0:
                    born += 1
        return {"got": born}
    """,
    ),
    attack(
        "starts_threads_without_end",
        """
    import threading, time
    def run(**_):
        started = 0
        try:
            for _ in range(500):
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                started += 1
        except RuntimeError:
            pass
        return {"got": max(0, started - 31)}
    """,
    ),
    attack(
        "leaves_a_thread_behind",
        """
    import threading
    def spin():
        while True:
            pass
    def run(**_):
        for _ in range(4):
            threading.Thread(target=spin, daemon=True).start()
        return {"got": 0}
    """,
    ),
    attack(
        "refuses_to_end",
        """
    import signal, time
    def run(**_):
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    """,
        OutcomeKind.TIMEOUT,
        limits=Limits(wall_seconds=0.5),
    ),
    attack(
        "kills_what_it_can_name",
        """
    import signal
    def run(parent, victim, **_):
        if os.getpid() != 1:
            return {"got": "not in a process namespace of its own"}
        return {"got": tried(
            lambda: os.kill(victim, signal.SIGKILL) or "killed the victim",
            lambda: os.kill(parent, signal.SIGTERM) or "told the parent",
            lambda: os.killpg(victim, signal.SIGKILL) or "killed the group",
            lambda: os.kill(-1, signal.SIGKILL) or "killed all",
        )}
    """,
    ),
]
