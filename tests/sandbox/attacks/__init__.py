"""Every hostile program."""

from tests.sandbox.attacks.attack import Attack, Guard
from tests.sandbox.attacks.files import FILES
from tests.sandbox.attacks.kernel import KERNEL
from tests.sandbox.attacks.network import NETWORK
from tests.sandbox.attacks.processes import PROCESSES
from tests.sandbox.attacks.resources import RESOURCES
from tests.sandbox.attacks.results import RESULTS
from tests.sandbox.attacks.surroundings import SURROUNDINGS

ATTACKS = [*FILES, *SURROUNDINGS, *NETWORK, *PROCESSES, *RESOURCES, *RESULTS, *KERNEL]

__all__ = ["ATTACKS", "Attack", "Guard"]
