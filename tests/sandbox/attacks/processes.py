"""Hostile programs that multiply, stay, or kill."""

from interlock_sandbox import Layer, Limits, OutcomeKind
from tests.sandbox.attacks.attack import Guard, attack

_CALLS = (Layer.SECCOMP,)
_CRASHED = OutcomeKind.CRASHED
_SOON = Limits(wall_seconds=0.15)

PROCESSES = [
    attack(
        "starts_processes",
        """
    import subprocess
    def run(**_):
        return {"got": tried(
            lambda: os.fork() or os._exit(0),
            lambda: subprocess.run(["/bin/sh", "-c", "id"], capture_output=True, text=True).stdout,
            lambda: os.system("true") == 0 or (_ for _ in ()).throw(OSError()),
            lambda: os.posix_spawn("/bin/true", ["true"], {}),
            lambda: __import__("multiprocessing").Process(target=print).start(),
            lambda: os.execv("/bin/true", ["true"]),
        )}
    """,
        held_by=_CALLS,
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
        held_by=_CALLS,
    ),
    attack(
        "leaves_a_daemon",
        """
    import time
    def run(**_):
        def daemon():
            child = os.fork()
            if child == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(60)
                os._exit(0)
            return child
        return {"got": tried(daemon)}
    """,
        held_by=_CALLS,
    ),
    attack(
        "starts_threads_without_end",
        """
    import threading, time
    def run(**_):
        started = 0
        try:
            for _ in range(200):
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                started += 1
        except RuntimeError:
            pass
        return {"got": max(0, started - 31)}
    """,
        held_by=(Layer.RLIMITS,),
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
        held_by=(Guard.KILL,),
        sign="it lived on",
    ),
    attack(
        "goes_on_after_it_closed_the_channel",
        """
    import time
    def run(**_):
        os.close(3)
        while True:
            time.sleep(60)
    """,
        OutcomeKind.TIMEOUT,
        _CRASHED,
        limits=_SOON,
        held_by=(Guard.KILL,),
        sign="it lived on",
    ),
    attack(
        "goes_on_after_it_shut_the_channel",
        """
    import socket, time
    def run(**_):
        socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_RDWR)
        while True:
            time.sleep(60)
    """,
        OutcomeKind.TIMEOUT,
        _CRASHED,
        limits=_SOON,
        held_by=(Guard.KILL,),
        sign="it lived on",
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
        limits=_SOON,
        held_by=(Guard.DEADLINE,),
        sign="it ran past its deadline",
    ),
    attack(
        "blocks_every_signal_and_stops_itself",
        """
    import signal, time
    def run(**_):
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        os.kill(os.getpid(), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGTSTP)
        time.sleep(60)
    """,
        OutcomeKind.TIMEOUT,
        limits=_SOON,
        held_by=(Guard.DEADLINE,),
        sign="it ran past its deadline",
    ),
    attack(
        "sleeps_in_threads_that_must_be_waited_for",
        """
    import threading, time
    def run(**_):
        threads = [threading.Thread(target=time.sleep, args=(60,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    """,
        OutcomeKind.TIMEOUT,
        limits=_SOON,
        held_by=(Guard.DEADLINE,),
        sign="it ran past its deadline",
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
    attack(
        "kills_itself",
        """
    import signal
    def run(**_):
        os.kill(os.getpid(), signal.SIGKILL)
        return {"got": 0}
    """,
        OutcomeKind.COMPLETED,
        _CRASHED,
        OutcomeKind.KILLED,
        held_by=(Guard.PROCESS,),
        sign="the host died",
    ),
    attack(
        "aborts",
        "def run(**_):\n    os.abort()\n",
        _CRASHED,
        held_by=(Guard.PROCESS,),
        sign="the host died",
    ),
    attack(
        "crashes_the_interpreter",
        """
    def run(**_):
        ctypes.string_at(0)
    """,
        _CRASHED,
        held_by=(Guard.PROCESS,),
        sign="the host died",
    ),
    attack(
        "overwrites_the_interpreter",
        """
    def run(**_):
        ctypes.memset(id(int), 0xFF, 400)
        return {"got": int("1") - 1}
    """,
        _CRASHED,
        held_by=(Guard.PROCESS,),
        sign="the host died",
    ),
    attack(
        "leaves_without_a_word",
        "def run(**_):\n    os._exit(7)\n",
        _CRASHED,
        held_by=(Guard.PROCESS,),
        sign="the host died",
    ),
    attack(
        "exits",
        "import sys\ndef run(**_):\n    sys.exit(3)\n",
        OutcomeKind.TOOL_ERROR,
        held_by=(Guard.PROCESS,),
        sign="the host died",
    ),
    attack(
        "closes_everything",
        'def run(**_):\n    os.closerange(0, 64)\n    return {"got": 0}\n',
        _CRASHED,
        OutcomeKind.TIMEOUT,
        limits=_SOON,
        held_by=(Guard.PROCESS,),
        sign="the host died",
    ),
]
