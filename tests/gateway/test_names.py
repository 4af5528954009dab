"""Names whose servers answer late, or never."""

import asyncio
import socket
import threading
from collections import Counter
from typing import Any

import pytest

from gateway_svc.names import Names, NameUnknownError


async def test_a_tenant_whose_names_are_never_answered_holds_up_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer, asked = threading.Event(), Counter[str]()

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        asked[host] += 1
        if host == "slow.example":
            answer.wait()
        return [(0, 0, 0, "", ("192.0.2.7", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr("gateway_svc.names._SECONDS", 0.2)
    names = Names()

    async def slow() -> None:
        with pytest.raises(NameUnknownError):
            await names.addresses("mallory", "slow.example", 443)

    try:
        await asyncio.gather(*(slow() for _ in range(100)))
        assert asked["slow.example"] == 4, "those that were given up still count"
        await slow()
        monkeypatch.setattr("gateway_svc.names._SECONDS", 10.0)
        assert await names.addresses("ada", "fast.example", 443) == ["192.0.2.7"]
        # The rest of the process has its threads.
        assert await asyncio.gather(*(asyncio.to_thread(int, "7") for _ in range(20))) == [7] * 20
        assert await names.addresses("mallory", "10.0.0.1", 443) == ["10.0.0.1"], "no name at all"
    finally:
        answer.set()
    assert await names.addresses("mallory", "fast.example", 443) == ["192.0.2.7"]
