"""Secrets at rest."""

from pathlib import Path

import pytest

from svc_kit.secret_box import SealBrokenError, SecretBox


def test_a_secret_opens_with_the_same_key_at_its_own_place_alone(tmp_path: Path) -> None:
    box = SecretBox.load_or_create(tmp_path / "key")
    sealed = box.seal("sk-1", place="a")
    assert b"sk-1" not in sealed
    assert SecretBox.load_or_create(tmp_path / "key").open(sealed, place="a") == "sk-1"
    for other, place in ((box, "b"), (SecretBox.load_or_create(tmp_path / "other"), "a")):
        with pytest.raises(SealBrokenError):
            other.open(sealed, place=place)
    with pytest.raises(SealBrokenError):
        box.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), place="a")


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    SecretBox.load_or_create(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(PermissionError, match="chmod 600"):
        SecretBox.load_or_create(tmp_path / "key")
