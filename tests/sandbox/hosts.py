"""What a host cannot show: passed over on a desk, and red where changes are judged."""

import os
from typing import NoReturn

import pytest


def without_host(reason: str) -> NoReturn:
    """Skip this test, or fail it where the environment says CI=true: nothing may be held for shown there."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{reason}, and a skip counts as a failure here (CI=true)")
    pytest.skip(reason)
