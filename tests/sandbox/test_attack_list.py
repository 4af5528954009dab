import re
from pathlib import Path

from tests.sandbox.attacks import ATTACKS
from tests.sandbox.attacks.leaks import LEAKS

SECURITY = Path(__file__).parents[2] / "docs/security.md"


def test_there_are_as_many_hostile_programs_as_we_say() -> None:
    said = re.search(r"more than (\d+)\s+hostile programs", SECURITY.read_text())
    assert said is not None
    names = [*(attack.name for attack in ATTACKS), *(leak.name for leak in LEAKS)]
    assert len(set(names)) == len(names) > int(said[1])
