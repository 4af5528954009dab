"""The failure to apply a layer, told in a way that a remedy can be found for."""

from collections.abc import Iterator
from contextlib import contextmanager

from interlock_sandbox.levels import Layer


class SetupError(Exception):
    """A layer could not be applied; nothing may run."""

    def __init__(self, layer: Layer, step: str, errno: int) -> None:
        super().__init__(f"{layer}: {step}")
        self.layer = layer
        self.step = step
        self.errno = errno

    def describe(self) -> dict[str, object]:
        """The same as data, for a message."""
        return {"layer": str(self.layer), "step": self.step, "errno": self.errno}


@contextmanager
def applying(layer: Layer) -> Iterator[None]:
    """Turn any failure in the block into a SetupError of this layer."""
    try:
        yield
    except SetupError:
        raise
    except OSError as error:
        raise SetupError(layer, error.strerror or str(error), error.errno or 0) from error
    except Exception as error:
        raise SetupError(layer, f"{type(error).__name__}: {error}", 0) from error
