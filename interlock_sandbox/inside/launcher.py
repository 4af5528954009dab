"""The first code of the zygote: from a fresh interpreter to the first process of its own namespaces.

Started as `python -I -S -E -c <bootstrap> <socket> <package folder>` with an empty environment.
"""

import os
import resource
import signal
import socket
import sys

from interlock_sandbox import messages
from interlock_sandbox.inside import namespaces, privileges, rootfs
from interlock_sandbox.inside.runtime_files import RuntimeFiles, find_runtime_files
from interlock_sandbox.inside.setup_error import SetupError, applying
from interlock_sandbox.inside.syscalls import (
    CLONE_NEWUSER,
    PR_SET_DUMPABLE,
    die_with_parent,
    prctl,
    unshare,
)
from interlock_sandbox.inside.zygote import Zygote, load_packages, preload
from interlock_sandbox.levels import Layer


def main(descriptor: int) -> None:
    """Build the zygote as the parent's first message says, and serve until the parent is gone."""
    os.set_inheritable(descriptor, False)
    die_with_parent()
    # What is in flight in sockets is counted for a user, tools that send descriptors to themselves included,
    # and held against the limit of whoever sends next: our own messages must not be refused for it.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    parent = socket.socket(fileno=descriptor)
    configuration = messages.receive(parent)
    if configuration is None:
        return
    told = configuration[0]
    layers = frozenset(Layer(str(name)) for name in _strings(told["layers"]))
    try:
        _launch(parent, layers, str(told["packages"]), _strings(told["preload"]))
    except SetupError as error:
        messages.send(parent, messages.Op.REFUSED, error.describe())


def _strings(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _launch(parent: socket.socket, layers: frozenset[Layer], packages: str, modules: list[object]) -> None:
    with applying(Layer.ROOT):
        runtime = find_runtime_files(packages, tuple(map(str, modules)))
    preload()
    # Kept open over the change of root, so that a child can name its ids without any /proc in its own tree.
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    host_id = namespaces.unused_host_id()
    if Layer.NAMESPACES in layers:
        with applying(Layer.NAMESPACES):
            _enter_namespaces(proc, host_id)
        if os.fork():  # a new process namespace begins with the next child
            _wait_for_zygote(parent, layers)
    _settle(parent, layers, runtime, proc, host_id)


def _enter_namespaces(proc: int, host_id: int | None) -> None:
    flags = namespaces.ZYGOTE_NAMESPACES
    if host_id is not None:
        # Root needs no user namespace: the tree is built with its rights, and given up for an id of nobody's.
        unshare(flags)
        return
    uid, gid = os.geteuid(), os.getegid()
    unshare(flags | CLONE_NEWUSER)
    namespaces.write_id_maps(proc, uid=uid, gid=gid)


def _wait_for_zygote(parent: socket.socket, layers: frozenset[Layer]) -> None:
    """Stay as the zygote's parent; it ends by itself when nobody holds the other end of its socket."""
    parent.close()
    if Layer.CAPABILITIES in layers:
        privileges.drop_capabilities()
    os.wait()
    os._exit(0)


def _settle(
    parent: socket.socket,
    layers: frozenset[Layer],
    runtime: RuntimeFiles,
    proc: int,
    host_id: int | None,
) -> None:
    try:
        if Layer.ROOT in layers:
            with applying(Layer.ROOT):
                rootfs.build_root(runtime)
        with applying(Layer.CAPABILITIES):
            if Layer.CAPABILITIES in layers:
                _give_up_root(host_id)
        die_with_parent()  # a change of ids clears it
        # Not before: this is code that is neither ours nor Python's.
        load_packages(layers, runtime)
        Zygote(parent, layers=layers, runtime=runtime, proc=proc).serve()
    except SetupError as error:
        messages.send(parent, messages.Op.REFUSED, error.describe())
    os._exit(0)


def _give_up_root(host_id: int | None) -> None:
    if host_id is not None:
        namespaces.become(host_id)
    privileges.drop_capabilities()
    # A process that changed its ids may not write its own id maps, nor may its clones, until it says that
    # it may be read.
    prctl(PR_SET_DUMPABLE, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.dont_write_bytecode = True
