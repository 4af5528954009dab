"""Words for how well a sandbox isolates: layers, and the level they add up to."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Layer(StrEnum):
    """One independent means of holding a program, in the order they are applied."""

    NAMESPACES = "namespaces"
    """Own user, process, mount, IPC and host-name namespaces; the whole tree dies with its first process."""
    NETWORK = "network"
    """Own network namespace without any interface that is up."""
    ROOT = "root"
    """Own read-only file system of just the Python runtime, and a bounded scratch folder."""
    CAPABILITIES = "capabilities"
    """No capabilities, and no way to gain any (`no_new_privs`)."""
    RLIMITS = "rlimits"
    """Bounds on memory, CPU, processes, descriptors and file sizes."""
    LANDLOCK = "landlock"
    """A second, independent list of the files that may be touched."""
    SECCOMP = "seccomp"
    """A default-deny list of system calls."""
    CGROUPS = "cgroups"
    """Memory, process and CPU bounds that count a whole tree."""


class IsolationLevel(IntEnum):
    """How much holds a program; higher is stronger."""

    NONE = 0
    """Nothing dependable: code is not run."""
    PARTIAL = 1
    """System-call filter, no privileges and limits, but the host's processes and file tree are shared."""
    STANDARD = 2
    """Everything but cgroups."""
    FULL = 3
    """Everything."""


PARTIAL_LAYERS = frozenset({Layer.CAPABILITIES, Layer.RLIMITS, Layer.SECCOMP})
STANDARD_LAYERS = frozenset(Layer) - {Layer.CGROUPS}

# A private root needs the mount namespace, and a network namespace of its own needs a user namespace.
_REQUIRES = {Layer.NETWORK: Layer.NAMESPACES, Layer.ROOT: Layer.NAMESPACES}


def level_of(layers: Collection[Layer]) -> IsolationLevel:
    """The level that these layers together reach."""
    present = frozenset(layers)
    if present >= frozenset(Layer):
        return IsolationLevel.FULL
    if present >= STANDARD_LAYERS:
        return IsolationLevel.STANDARD
    if present >= PARTIAL_LAYERS:
        return IsolationLevel.PARTIAL
    return IsolationLevel.NONE


def without(layers: frozenset[Layer], missing: Layer) -> frozenset[Layer]:
    """The layers that remain when one is missing, less those that stand on it."""
    return frozenset(
        layer for layer in layers if layer is not missing and _REQUIRES.get(layer) is not missing
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatus:
    """Whether one layer holds on this host."""

    layer: Layer
    present: bool
    reason: str = ""
    """Why it is absent; empty when present."""
    remedy: str = ""
    """What to do about it on this host; empty when present."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxStatus:
    """What a sandbox on this host is worth."""

    level: IsolationLevel
    layers: tuple[LayerStatus, ...]
    interpreter: str
    """Version of the Python that runs the tools."""
    spares: int = 0
    """Sandboxes that stand ready."""
    running: int = 0
    """Calls being run."""
    calls: int = 0
    """Calls ended since the start."""
    restarts: int = 0
    """How often the zygote died and was started again."""

    @property
    def problems(self) -> tuple[LayerStatus, ...]:
        """The absent layers, with reason and remedy."""
        return tuple(layer for layer in self.layers if not layer.present)
