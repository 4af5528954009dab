"""`interlock audit retention` and `interlock audit hold` on the running suite."""

from tests.suite_running import Suite


def test_a_policy_is_set_and_a_hold_placed_shown_and_released(suite: Suite) -> None:
    changed = suite.json("audit", "retention", "set", "--class", "ACCESS", "--max-days", "5000")
    days = {each["class"].rpartition("_")[2]: each["payload_max_days"] for each in changed}
    assert days == {"CONTENT": 0, "ERROR": 0, "DECISION": 0, "STATE": 0, "ACCESS": 5000}
    refused = suite.cli("audit", "retention", "set", "--class", "ACCESS", "--min-days", "5001")
    assert refused.returncode == 1 and "rules[0].payload_max_days" in refused.stderr
    for wrong in ("183", "4999"):
        refused = suite.cli("audit", "retention", "set", "--class", "ACCESS", "--entry-max-days", wrong)
        assert refused.returncode == 1 and "rules[0].entry_max_days" in refused.stderr
    changed = suite.json("audit", "retention", "set", "--class", "ACCESS", "--entry-max-days", "6000")[-1]
    assert (changed["payload_max_days"], changed["entry_max_days"]) == (5000, 6000)
    assert "6,000 days" in suite.cli("audit", "retention", "show").stdout
    placed = suite.json("audit", "hold", "place", "--agent", "bench-echo", "--reason", "case 7")
    told = suite.json("audit", "retention", "preview")
    assert told["complete"] and {each["due_parts"] for each in told["classes"]} == {"0"}
    assert placed["hold_id"] in suite.cli("audit", "hold", "list").stdout
    released = suite.json("audit", "hold", "release", placed["hold_id"], "--reason", "closed")
    assert (released["hold_id"], released["release_reason"]) == (placed["hold_id"], "closed")
