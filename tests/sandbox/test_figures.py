"""The benchmarks of the sandbox measure what they say, on a few rounds."""

import pytest

from benchmarks import checks, sandboxes
from benchmarks.__main__ import main


async def test_every_figure_of_the_sandbox_is_taken_beside_its_floor() -> None:
    rows = [*await sandboxes.warm(rounds=10), *await sandboxes.cold(rounds=2, drained_rounds=1)]
    assert len(rows) == 6
    assert all(row.value > 0 for row in rows)
    # Processor time is told in steps, which few forks may not reach.
    assert all(row.floor for row in rows if "CPU" not in row.what)


async def test_a_time_out_is_measured_from_the_end_of_the_time_given() -> None:
    rows = await sandboxes.timeouts(runs=2)
    assert [row.note.partition(" within")[0] for row in rows] == ["2 of 2"] * 4
    assert all(row.value > 0 for row in rows)


async def test_checks_are_measured_on_a_call_that_five_thousand_policies_allow() -> None:
    among_many, first = await checks.measure(rounds=20)
    assert among_many.floor is not None
    assert 0 < among_many.value < first.value


def test_parts_of_a_set_that_it_does_not_have_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "gateway", "--only", "submit"])
    with pytest.raises(SystemExit):
        main()
    assert "the parts of `gateway` are: warm, cold" in capsys.readouterr().err
