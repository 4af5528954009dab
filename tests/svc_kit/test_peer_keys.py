"""Keys of other services: asked for once, by whom it may concern, and never in a storm."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest

from interlock.common.v1.permit_pb2 import PublicKey
from svc_kit.clock import ManualClock
from svc_kit.errors import Unavailable
from svc_kit.peer_keys import BETWEEN_FETCHES_SECONDS, REFRESH_SECONDS, PeerKeys
from svc_kit.signing import SigningKey


class Peer:
    """Publishes keys; can be away, or slow to answer."""

    def __init__(self) -> None:
        self.keys: list[PublicKey] = []
        self.asked = 0
        self.fault: BaseException | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def fetch(self) -> Iterable[PublicKey]:
        self.asked += 1
        await self.answers.wait()
        if self.fault is not None:
            raise self.fault
        return self.keys


@pytest.fixture
def key(tmp_path: Path) -> PublicKey:
    return SigningKey.load_or_create(tmp_path / "first", "permit").public()


@pytest.fixture
def clock() -> ManualClock:
    clock = ManualClock()
    clock.advance(1000.0)
    return clock


@pytest.fixture
def peer(key: PublicKey) -> Peer:
    made = Peer()
    made.keys = [key]
    return made


@pytest.fixture
def keys(peer: Peer, clock: ManualClock) -> PeerKeys:
    return PeerKeys(peer.fetch, peer="gateway", clock=clock)


async def settled(peer: Peer, keys: PeerKeys) -> None:
    """The question under way has been answered."""
    peer.answers.set()
    if keys._asking is not None:
        await keys._asking


async def test_many_callers_at_once_ask_once(peer: Peer, keys: PeerKeys, key: PublicKey) -> None:
    rings = await asyncio.gather(*(keys.ring_for(key.key_id) for _ in range(100)))
    assert peer.asked == 1
    assert all(len(ring) == 1 for ring in rings)


async def test_key_ids_that_nobody_published_are_asked_for_once_a_second(
    peer: Peer, keys: PeerKeys, clock: ManualClock
) -> None:
    for number in range(100):
        await keys.ring_for(f"forged-{number}")
    assert peer.asked == 1
    clock.advance(BETWEEN_FETCHES_SECONDS + 0.01)
    await keys.ring_for("forged")
    assert peer.asked == 2


@pytest.mark.parametrize(
    "fault", [ConnectionError("away"), ValueError("no such key"), asyncio.CancelledError()]
)
async def test_a_peer_that_is_away_is_asked_once_a_second_and_everybody_else_is_refused_at_once(
    peer: Peer, keys: PeerKeys, key: PublicKey, clock: ManualClock, fault: BaseException
) -> None:
    peer.fault = fault
    for _ in range(100):
        with pytest.raises(Unavailable, match="the gateway cannot be asked") as refused:
            await keys.ring_for(key.key_id)
        assert refused.value.reason_name == "PEER_UNAVAILABLE"
    assert peer.asked == 1
    peer.fault = None
    clock.advance(BETWEEN_FETCHES_SECONDS + 0.01)
    assert len(await keys.ring_for(key.key_id)) == 1


async def test_a_known_key_never_waits_for_its_refresh(
    peer: Peer, keys: PeerKeys, key: PublicKey, clock: ManualClock
) -> None:
    await keys.ring_for(key.key_id)
    peer.answers.clear()
    clock.advance(REFRESH_SECONDS + 1)
    async with asyncio.timeout(1):
        for _ in range(100):
            await keys.ring_for(key.key_id)
        await asyncio.sleep(0)
    assert peer.asked == 2
    await settled(peer, keys)


async def test_a_known_key_works_on_while_an_unknown_one_is_asked_for(
    peer: Peer, keys: PeerKeys, key: PublicKey, clock: ManualClock
) -> None:
    await keys.ring_for(key.key_id)
    clock.advance(BETWEEN_FETCHES_SECONDS + 0.01)
    peer.answers.clear()
    unknown = asyncio.create_task(keys.ring_for("forged"))
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await keys.ring_for(key.key_id)
    assert not unknown.done()
    peer.answers.set()
    assert len(await unknown) == 1


async def test_a_withdrawn_key_is_gone_after_the_refresh(
    peer: Peer, keys: PeerKeys, key: PublicKey, clock: ManualClock, tmp_path: Path
) -> None:
    await keys.ring_for(key.key_id)
    peer.keys = [SigningKey.load_or_create(tmp_path / "second", "permit").public()]
    clock.advance(REFRESH_SECONDS + 1)
    ring = await keys.ring_for(key.key_id)
    await settled(peer, keys)
    assert await keys.ring_for(peer.keys[0].key_id) is ring
    assert keys._known == {peer.keys[0].key_id}


async def test_known_keys_outlive_a_peer_that_cannot_be_asked_again(
    peer: Peer, keys: PeerKeys, key: PublicKey, clock: ManualClock
) -> None:
    await keys.ring_for(key.key_id)
    peer.fault = ConnectionError("away")
    clock.advance(REFRESH_SECONDS + 1)
    await keys.ring_for(key.key_id)
    await settled(peer, keys)
    assert len(await keys.ring_for(key.key_id)) == 1
    with pytest.raises(Unavailable):
        await keys.ring_for("unknown")
    assert peer.asked == 2


async def test_a_caller_that_gives_up_does_not_end_the_question_of_the_others(
    peer: Peer, keys: PeerKeys, key: PublicKey
) -> None:
    peer.answers.clear()
    first, second = (asyncio.create_task(keys.ring_for(key.key_id)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    peer.answers.set()
    assert len(await second) == 1
    assert first.cancelled()
    assert peer.asked == 1
