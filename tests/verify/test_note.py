"""Signed notes and checkpoints, also with the example of the C2SP page."""

import base64

import pytest

from interlock.verify import NoteError, NoteKey, open_checkpoint, parse_checkpoint, parse_note
from tests.verify.slow_log import LogKey

# The example note of c2sp.org/signed-note, and the key it was signed with.
EXAMPLE_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
EXAMPLE_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

LOG = LogKey("example.org/log")


def test_the_published_example_verifies_and_reads_back_the_same() -> None:
    key = NoteKey.parse(EXAMPLE_KEY)
    note = parse_note(EXAMPLE_NOTE)
    note.require_signature(key)
    assert note.text.startswith("If you think") and note.text.endswith("problem is.\n")
    assert str(note) == EXAMPLE_NOTE
    assert str(key) == EXAMPLE_KEY


def test_a_changed_letter_breaks_the_signature() -> None:
    note = parse_note(EXAMPLE_NOTE.replace("answer", "Answer"))
    with pytest.raises(NoteError, match="does not fit"):
        note.require_signature(NoteKey.parse(EXAMPLE_KEY))


def test_a_note_without_the_wanted_signature_is_refused() -> None:
    with pytest.raises(NoteError, match="no signature by"):
        parse_note(EXAMPLE_NOTE).require_signature(LOG.key)


def test_a_key_of_the_same_name_does_not_pass_for_another() -> None:
    impostor = LogKey("example.org/log", seed=2)
    with pytest.raises(NoteError, match="no signature by"):
        parse_note(impostor.checkpoint([b"a"])).require_signature(LOG.key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no newline at the end",
        "text\n",
        "text\n\n",
        "text\n\n— name\n",
        "text\n\n— name not_base64!\n",
        "text\n\n— name AAAA\n",
        "text\n\n— na+me AAAAAAAAAA==\n",
        "text\n\n- name AAAAAAAAAA==\n",
        "text\n\n— name AAAAAAAAAA==",
        "te\rxt\n\n— name AAAAAAAAAA==\n",
        "te\x00xt\n\n— name AAAAAAAAAA==\n",
        "te\ud800xt\n\n— name AAAAAAAAAA==\n",
        "text\n\n" + "— name AAAAAAAAAA==\n" * 101,
    ],
)
def test_a_malformed_note_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        parse_note(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "name+00000000",
        "name+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+AhpC2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        "PeterNeumann+c74f20a3+ARpc",
    ],
)
def test_a_malformed_key_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        NoteKey.parse(text)


def test_a_checkpoint_reads_back_the_same() -> None:
    checkpoint = open_checkpoint(LOG.checkpoint([b"a", b"b"]), key=LOG.key)
    assert (checkpoint.origin, checkpoint.size) == ("example.org/log", 2)
    assert parse_checkpoint(checkpoint.text) == checkpoint


def test_a_checkpoint_of_another_origin_is_refused_although_its_signature_fits() -> None:
    foreign = LogKey("example.org/other").checkpoint([b"a"])
    text = parse_note(foreign).text
    with pytest.raises(NoteError, match="speaks of"):
        open_checkpoint(LOG.note(text), key=LOG.key)


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"origin\n1\n{ROOT}",
        f"origin\n1\n{ROOT}\n\n",
        f"\n1\n{ROOT}\n",
        "origin\n1\n",
        f"origin\n01\n{ROOT}\n",
        f"origin\n+1\n{ROOT}\n",
        f"origin\n-1\n{ROOT}\n",
        f"origin\n1_0\n{ROOT}\n",
        f"origin\n٣\n{ROOT}\n",
        f"origin\n{2**63}\n{ROOT}\n",
        f"origin\n0\n{ROOT}\n",
        "origin\n1\nAAAA\n",
        f"origin\n1\n{ROOT[:-1]}\n",
        f"origin\n1\n {ROOT}\n",
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        parse_checkpoint(text)
