"""A host that cannot show something."""

import pytest

from tests.sandbox.hosts import without_host


def test_what_a_host_cannot_show_is_a_failure_where_changes_are_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no sandbox"):
        without_host("no sandbox")


def test_what_a_host_cannot_show_is_passed_over_on_a_desk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no sandbox"):
        without_host("no sandbox")
