"""Where connections may lead to."""

import pytest

from gateway_svc.addresses import vetted

_LINK_LOCAL = "169.254.169.254"


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111"])
def test_public_addresses_are_called(address: str) -> None:
    assert vetted([address], allow_private=False, public=True) == address


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.1.1",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        _LINK_LOCAL,
        "fe80::1%eth0",
        "224.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_special_addresses_are_not_called(address: str) -> None:
    assert vetted([address], allow_private=False, public=True) is None


def test_private_addresses_are_called_where_they_are_allowed_but_never_link_local_ones() -> None:
    assert vetted(["::ffff:127.0.0.1"], allow_private=True, public=False) == "127.0.0.1"
    assert vetted(["fd00::1"], allow_private=True, public=True) == "fd00::1"
    assert vetted([_LINK_LOCAL], allow_private=True, public=True) is None
    assert vetted(["8.8.8.8"], allow_private=True, public=False) is None, "plain http leaves no network"


def test_one_bad_address_among_good_ones_refuses_the_name() -> None:
    assert vetted(["8.8.8.8", "127.0.0.1"], allow_private=False, public=True) is None
    assert vetted([], allow_private=True, public=True) is None
