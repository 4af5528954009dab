import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway_svc.cedar.text import parse_policy
from interlock.cli.cedar import policy_id_for, policy_text
from interlock.cli.problems import CliError

AGENTS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
TOOLS = st.from_regex(r"[A-Za-z0-9_.-]{1,128}", fullmatch=True)


@given(AGENTS, TOOLS)
def test_the_gateway_takes_every_allow(agent: str, tool: str) -> None:
    parse_policy("p", policy_text(agent, tool, ""))
    parse_policy("p", policy_text(agent, tool, "context.attempt <= 3"))


@given(AGENTS, TOOLS, st.sampled_from(["", "true", "false"]))
def test_every_id_is_one_that_the_gateway_takes(agent: str, tool: str, when: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", policy_id_for(agent, tool, when))


@example([("a-b", "c", ""), ("a", "b-c", ""), ("a", "b_c", ""), ("a", "B_C", ""), ("a", "b_c", "true")])
@given(st.lists(st.tuples(AGENTS, TOOLS, st.sampled_from(["", "true"])), unique=True, max_size=30))
def test_ids_differ_wherever_agent_tool_or_condition_differ(allows: list[tuple[str, str, str]]) -> None:
    assert len({policy_id_for(*allow) for allow in allows}) == len(allows)


def test_an_id_says_what_the_policy_is_for() -> None:
    assert policy_id_for("csv-analyst", "csv_report", "").startswith("allow-csv-analyst-csv-report-")


@pytest.mark.parametrize("name", ['a"b', "", "a b", 'x") ;', "ä", "a" * 129])
def test_a_name_that_could_break_out_of_the_policy_is_refused(name: str) -> None:
    with pytest.raises(CliError):
        policy_text(name, "tool", "")
    with pytest.raises(CliError):
        policy_text("agent", name, "")
