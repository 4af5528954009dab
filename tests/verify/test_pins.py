"""A reader who comes back notices another key, a shrunken tree and another history."""

import stat
from pathlib import Path

import pytest

from interlock.verify import PinError, PinStore
from tests.verify.slow_log import LogKey, consistency

LOG = LogKey("example.org/log")
LEAVES = [bytes([i]) for i in range(20)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pins" / "pins.json"


@pytest.fixture
def pinned(path: Path) -> PinStore:
    store = PinStore(path)
    store.advance(key=LOG.key, note=LOG.checkpoint(LEAVES[:8]))
    return store


def test_an_unknown_log_has_no_pin(path: Path) -> None:
    assert PinStore(path).get("example.org/log") is None


def test_the_first_look_pins_key_and_checkpoint_in_a_private_file(pinned: PinStore, path: Path) -> None:
    pin = PinStore(path).get("example.org/log")
    assert pin is not None
    assert (pin.key, pin.checkpoint.size) == (LOG.key, 8)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(p.name for p in path.parent.iterdir()) == ["pins.json", "pins.json.lock"]


def test_a_log_that_grew_moves_its_pin(pinned: PinStore) -> None:
    pinned.advance(key=LOG.key, note=LOG.checkpoint(LEAVES), consistency=consistency(8, LEAVES))
    pin = pinned.get("example.org/log")
    assert pin is not None and pin.checkpoint.size == 20


def test_logs_are_pinned_apart(pinned: PinStore) -> None:
    other = LogKey("example.org/other", seed=3)
    pinned.advance(key=other.key, note=other.checkpoint(LEAVES[:2]))
    for origin, size in (("example.org/log", 8), ("example.org/other", 2)):
        pin = pinned.get(origin)
        assert pin is not None and pin.checkpoint.size == size


def test_another_key_is_refused_and_the_pin_stays(pinned: PinStore) -> None:
    stolen = LogKey("example.org/log", seed=2)
    with pytest.raises(PinError, match="another key"):
        pinned.advance(key=stolen.key, note=stolen.checkpoint(LEAVES), consistency=consistency(8, LEAVES))
    pin = pinned.get("example.org/log")
    assert pin is not None and pin.key == LOG.key


def test_a_shrunken_tree_is_refused(pinned: PinStore) -> None:
    with pytest.raises(PinError, match="shrank from 8 to 7"):
        pinned.advance(key=LOG.key, note=LOG.checkpoint(LEAVES[:7]))


def test_another_history_of_the_same_size_is_refused(pinned: PinStore) -> None:
    with pytest.raises(PinError, match="two different roots"):
        pinned.advance(key=LOG.key, note=LOG.checkpoint([b"x", *LEAVES[1:8]]))


def test_growth_without_a_proof_is_refused(pinned: PinStore) -> None:
    with pytest.raises(PinError, match="does not continue"):
        pinned.advance(key=LOG.key, note=LOG.checkpoint(LEAVES))


def test_an_unsigned_checkpoint_is_never_pinned(path: Path) -> None:
    note = LOG.checkpoint(LEAVES[:8]).replace("\n8\n", "\n9\n")
    with pytest.raises(PinError):
        PinStore(path).advance(key=LOG.key, note=note)
    assert not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1, "logs": {"a": {}}}'])
def test_a_damaged_file_is_an_error_and_not_a_first_look(pinned: PinStore, path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(PinError):
        pinned.get("example.org/log")
    with pytest.raises(PinError):
        pinned.advance(key=LOG.key, note=LOG.checkpoint(LEAVES[:8]))
    assert path.read_text() == text


def test_a_pin_that_was_edited_is_an_error(pinned: PinStore, path: Path) -> None:
    path.write_text(path.read_text().replace("\\n8\\n", "\\n5\\n"))
    with pytest.raises(PinError, match="damaged"):
        pinned.get("example.org/log")
