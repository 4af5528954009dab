from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from interlock.common.v1.permit_pb2 import AttemptClaims, PublicKey, Signed, StepPermit
from svc_kit.errors import DomainError, PermissionDenied
from svc_kit.permits import (
    issue_attempt_token,
    issue_step_permit,
    verify_attempt_token,
    verify_step_permit,
)
from svc_kit.signing import ATTEMPT_PURPOSE, PERMIT_PURPOSE, RECEIPT_PURPOSE, KeyRing, SigningKey

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def attempt_key(tmp_path: Path) -> SigningKey:
    return SigningKey.load_or_create(tmp_path, "attempt")


@pytest.fixture
def permit_key(tmp_path: Path) -> SigningKey:
    return SigningKey.load_or_create(tmp_path, "permit")


@pytest.fixture
def ring(attempt_key: SigningKey, permit_key: SigningKey) -> KeyRing:
    return KeyRing([attempt_key.public(), permit_key.public()])


def claims(**changes: Any) -> AttemptClaims:
    made = AttemptClaims(
        tenant="default", task_id="t1", attempt=2, worker_subject="worker-1", session_id="s1"
    )
    made.expire_time.FromDatetime(NOW + timedelta(seconds=30))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def permit() -> StepPermit:
    made = StepPermit(tenant="default", task_id="t1", argument_digest="sha256:aa", worker_subject="worker-1")
    made.expire_time.FromDatetime(NOW + timedelta(seconds=30))
    return made


def refusal(check: Any, *args: Any, **kwargs: Any) -> DomainError:
    with pytest.raises(DomainError) as caught:
        check(*args, **kwargs)
    return caught.value


def test_a_signature_proves_its_payload_for_its_purpose_alone(permit_key: SigningKey, ring: KeyRing) -> None:
    signed = permit_key.sign(PERMIT_PURPOSE, b"payload")
    assert ring.verify(PERMIT_PURPOSE, signed) == b"payload"
    for purpose in (ATTEMPT_PURPOSE, RECEIPT_PURPOSE):
        assert refusal(ring.verify, purpose, signed).reason_name == "SIGNATURE_INVALID"


def test_a_key_signs_for_its_use_alone(attempt_key: SigningKey, ring: KeyRing) -> None:
    crossed = attempt_key.sign(PERMIT_PURPOSE, b"payload")
    assert refusal(ring.verify, PERMIT_PURPOSE, crossed).reason_name == "SIGNATURE_INVALID"


@pytest.mark.parametrize("part", ["payload", "signature", "key_id"])
def test_any_change_to_what_was_signed_is_noticed(permit_key: SigningKey, ring: KeyRing, part: str) -> None:
    signed = permit_key.sign(PERMIT_PURPOSE, b"payload")
    value = getattr(signed, part)
    setattr(signed, part, value + (b"x" if isinstance(value, bytes) else "x"))
    assert isinstance(refusal(ring.verify, PERMIT_PURPOSE, signed), PermissionDenied)


def test_nothing_is_trusted_by_an_empty_ring_or_without_a_signature(
    permit_key: SigningKey, ring: KeyRing
) -> None:
    assert refusal(ring.verify, PERMIT_PURPOSE, Signed()).reason_name == "SIGNATURE_INVALID"
    signed = permit_key.sign(PERMIT_PURPOSE, b"payload")
    assert refusal(KeyRing().verify, PERMIT_PURPOSE, signed).reason_name == "SIGNATURE_INVALID"


def test_keys_can_be_exchanged_and_the_old_ones_end(
    permit_key: SigningKey, ring: KeyRing, tmp_path: Path
) -> None:
    newer = SigningKey.load_or_create(tmp_path / "next", "permit")
    ring.replace([newer.public()])
    assert ring.verify(PERMIT_PURPOSE, newer.sign(PERMIT_PURPOSE, b"x")) == b"x"
    older = permit_key.sign(PERMIT_PURPOSE, b"x")
    assert refusal(ring.verify, PERMIT_PURPOSE, older).reason_name == "SIGNATURE_INVALID"


def test_a_published_key_under_another_keys_name_changes_nothing(
    permit_key: SigningKey, attempt_key: SigningKey, ring: KeyRing
) -> None:
    liar = PublicKey(key_id=permit_key.kid, ed25519=attempt_key.public().ed25519, use="permit")
    for wrong in (liar, PublicKey(key_id="x", ed25519=b"short", use="permit")):
        with pytest.raises(ValueError):  # noqa: PT011 - the second message is the library's
            ring.replace([wrong])
    assert ring.verify(PERMIT_PURPOSE, permit_key.sign(PERMIT_PURPOSE, b"x")) == b"x"


def test_a_key_is_the_same_after_a_restart(tmp_path: Path, permit_key: SigningKey) -> None:
    assert SigningKey.load_or_create(tmp_path, "permit").kid == permit_key.kid
    assert SigningKey.load_or_create(tmp_path, "receipt").kid != permit_key.kid


def test_an_attempt_token_gives_its_worker_the_right_to_its_attempt(
    attempt_key: SigningKey, ring: KeyRing
) -> None:
    token = issue_attempt_token(attempt_key, claims())
    verified = verify_attempt_token(ring, token, now=NOW, worker_subject="worker-1", task_id="t1", attempt=2)
    assert verified == claims()


@pytest.mark.parametrize(
    "other",
    [
        {"worker_subject": "worker-2"},
        {"worker_subject": ""},
        {"task_id": "t2"},
        {"attempt": 3},
        {"session_id": "s2"},
        {"tenant": "acme"},
    ],
)
def test_an_attempt_token_is_refused_for_anything_else(
    attempt_key: SigningKey, ring: KeyRing, other: dict[str, Any]
) -> None:
    token = issue_attempt_token(attempt_key, claims())
    wanted = {"worker_subject": "worker-1"} | other
    error = refusal(verify_attempt_token, ring, token, now=NOW, **wanted)
    assert error.reason_name == "ATTEMPT_TOKEN_MISMATCH"
    assert error.metadata == {"field": next(iter(other))}


def test_what_a_token_leaves_empty_binds_nothing(attempt_key: SigningKey, ring: KeyRing) -> None:
    token = issue_attempt_token(attempt_key, claims(worker_subject=""))
    error = refusal(verify_attempt_token, ring, token, now=NOW, worker_subject="")
    assert error.reason_name == "ATTEMPT_TOKEN_MISMATCH"


def test_rights_end_at_their_time(attempt_key: SigningKey, permit_key: SigningKey, ring: KeyRing) -> None:
    end = NOW + timedelta(seconds=30)
    just_before = end - timedelta(microseconds=1)
    token, right = issue_attempt_token(attempt_key, claims()), issue_step_permit(permit_key, permit())
    assert verify_attempt_token(ring, token, now=just_before, worker_subject="worker-1") == claims()
    assert verify_step_permit(ring, right, now=just_before, worker_subject="worker-1") == permit()
    expired = refusal(verify_attempt_token, ring, token, now=end, worker_subject="worker-1")
    assert expired.reason_name == "ATTEMPT_TOKEN_EXPIRED"
    expired = refusal(verify_step_permit, ring, right, now=end, worker_subject="worker-1")
    assert expired.reason_name == "PERMIT_EXPIRED"


def test_a_right_without_an_end_has_ended(attempt_key: SigningKey, ring: KeyRing) -> None:
    endless = claims()
    endless.ClearField("expire_time")
    token = issue_attempt_token(attempt_key, endless)
    error = refusal(verify_attempt_token, ring, token, now=NOW, worker_subject="worker-1")
    assert error.reason_name == "ATTEMPT_TOKEN_EXPIRED"


def test_a_permit_is_for_exactly_its_arguments(permit_key: SigningKey, ring: KeyRing) -> None:
    right = issue_step_permit(permit_key, permit())
    check = {"now": NOW, "worker_subject": "worker-1"}
    assert verify_step_permit(ring, right, **check, argument_digest="sha256:aa").task_id == "t1"  # type: ignore[arg-type]
    error = refusal(verify_step_permit, ring, right, **check, argument_digest="sha256:bb")
    assert (error.reason_name, error.metadata) == ("PERMIT_MISMATCH", {"field": "argument_digest"})


def test_an_attempt_token_does_not_pass_for_a_permit(attempt_key: SigningKey, ring: KeyRing) -> None:
    token = issue_attempt_token(attempt_key, claims())
    error = refusal(verify_step_permit, ring, token, now=NOW, worker_subject="worker-1")
    assert error.reason_name == "SIGNATURE_INVALID"
