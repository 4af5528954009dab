"""Cedar made to fail closed: default deny, and whatever cannot be evaluated denies."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_svc.cedar.decision import Decision, PolicyIndex, Question, Submitter
from gateway_svc.cedar.text import PolicyTextError, parse_policy

PERMIT = "permit (principal, action, resource);"
FORBID_LARGE = "forbid (principal, action, resource) when { context.arguments.amount > 100 };"


def decide(*policies: str, arguments: dict[str, Any] | None = None, **changes: Any) -> Decision:
    fields: dict[str, Any] = {
        "agent": "analyst",
        "agent_version": "1.0.0",
        "tool": "read",
        "attempt": 1,
        "submitter": Submitter(tenant="default", subject="ada", roles=("DEVELOPER",)),
    }
    question = Question(**(fields | changes), arguments=arguments or {})
    return PolicyIndex(parse_policy(f"p{n}", text) for n, text in enumerate(policies)).decide(question)


def test_without_any_policy_every_call_is_denied() -> None:
    decision = decide()
    assert not decision.allowed
    assert decision.policy_ids == ()
    assert "No policy allows" in decision.explanation


def test_a_permit_for_this_agent_and_tool_allows_and_names_itself() -> None:
    text = 'permit (principal == Interlock::Agent::"analyst", action, resource == Interlock::Tool::"read");'
    assert decide(text) == Decision(allowed=True, policy_ids=("p0",), explanation="Allowed by `p0`.")


@pytest.mark.parametrize("changes", [{"agent": "other"}, {"tool": "write"}])
def test_a_permit_for_another_agent_or_tool_allows_nothing(changes: dict[str, Any]) -> None:
    text = 'permit (principal == Interlock::Agent::"analyst", action, resource == Interlock::Tool::"read");'
    assert not decide(text, **changes).allowed


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("context.arguments.amount <= 100", True),
        ("context.arguments.amount > 100", False),
        ('context.agent_version == "1.0.0"', True),
        ('context.submitter.roles.contains("DEVELOPER")', True),
        ('context.submitter.roles.contains("ADMIN")', False),
        ('context.submitter.subject == "ada" && context.submitter.tenant == "default"', True),
        ("context.attempt == 1", True),
        ('context.arguments.tags.contains("b")', True),
        ('context.arguments.nested.name like "x*"', True),
    ],
)
def test_conditions_see_arguments_version_submitter_and_attempt(expression: str, *, allowed: bool) -> None:
    arguments = {"amount": 7, "tags": ["a", "b"], "nested": {"name": "xy"}}
    text = f"permit (principal, action, resource) when {{ {expression} }};"
    assert decide(text, arguments=arguments).allowed is allowed


@pytest.mark.parametrize(
    "arguments", [{"amount": 500}, {"amount": "500"}, {"amount": True}, {}, {"amount": {}}]
)
def test_a_forbid_that_cannot_be_evaluated_does_not_open(arguments: dict[str, Any]) -> None:
    assert not decide(PERMIT, FORBID_LARGE, arguments=arguments).allowed


def test_a_forbid_that_does_not_apply_lets_the_permit_speak() -> None:
    assert decide(PERMIT, FORBID_LARGE, arguments={"amount": 100}).allowed


def test_a_permit_that_cannot_be_evaluated_denies_beside_one_that_allows() -> None:
    broken = "permit (principal, action, resource) when { context.arguments.missing };"
    decision = decide(PERMIT, broken)
    assert not decision.allowed
    assert "could not be evaluated" in decision.explanation


def test_an_explanation_does_not_repeat_the_arguments() -> None:
    text = "permit (principal, action, resource) when { ip(context.arguments.host).isLoopback() };"
    decision = decide(text, arguments={"host": "my secret"})
    assert not decision.allowed
    assert "ipaddr" in decision.explanation
    assert "secret" not in decision.explanation


@pytest.mark.parametrize("amount", [500.5, 1.5, 1e300, -0.5])
def test_a_policy_that_looks_at_a_fraction_denies(amount: float) -> None:
    decision = decide(PERMIT, FORBID_LARGE, arguments={"amount": amount})
    assert not decision.allowed
    assert decision.policy_ids == ("p1",)


def test_a_fraction_that_no_policy_looks_at_does_no_harm() -> None:
    text = "permit (principal, action, resource) when { context.arguments.amount < 10 };"
    assert decide(text, arguments={"amount": 5, "ratio": 0.5}).allowed


def test_a_whole_number_spelled_as_a_fraction_is_that_number() -> None:
    text = "forbid (principal, action, resource) when { context.arguments.amount == 100 };"
    assert not decide(PERMIT, text, arguments={"amount": 100.0}).allowed


def test_an_argument_that_is_null_counts_as_not_sent() -> None:
    text = "forbid (principal, action, resource) unless { context.arguments has approver };"
    assert not decide(PERMIT, text, arguments={"approver": None}).allowed


def test_a_null_inside_a_list_hides_the_list_from_policies() -> None:
    text = 'permit (principal, action, resource) when { ["a"].containsAll(context.arguments.names) };'
    assert decide(text, arguments={"names": ["a"]}).allowed
    assert not decide(text, arguments={"names": ["a", None]}).allowed


def test_the_presence_of_a_fraction_can_be_asked_for() -> None:
    text = "forbid (principal, action, resource) when { context.arguments has override };"
    assert not decide(PERMIT, text, arguments={"override": 0.5}).allowed
    assert decide(PERMIT, text, arguments={"other": 0.5}).allowed


@pytest.mark.parametrize(
    "owner",
    [
        {"__entity": {"type": "Interlock::Agent", "id": "root"}},
        {"__extn": {"fn": "decimal", "arg": "1.0"}},
        {"__expr": 'Interlock::Agent::"root"'},
    ],
)
def test_arguments_cannot_pass_for_values_of_cedar(owner: dict[str, Any]) -> None:
    text = (
        'permit (principal, action, resource) when { context.arguments.owner == Interlock::Agent::"root" };'
    )
    assert not decide(text, arguments={"owner": owner}).allowed
    whole = "permit (principal, action, resource) when { context.arguments == context.arguments };"
    assert not decide(whole, arguments=owner).allowed


def test_looking_at_a_whole_record_is_looking_at_everything_in_it() -> None:
    text = "permit (principal, action, resource) when { {a: context.arguments}.a.amount < 10 };"
    assert decide(text, arguments={"amount": 5}).allowed
    assert not decide(text, arguments={"amount": 5, "ratio": 0.5}).allowed


def decide_beside(
    shadow: str, *policies: str, arguments: dict[str, Any] | None = None
) -> tuple[Decision, Decision]:
    """What is decided without a policy, and beside it in shadow mode."""
    question = Question(
        agent="analyst",
        agent_version="1.0.0",
        tool="read",
        attempt=1,
        arguments=arguments or {},
        submitter=None,
    )
    parsed = [parse_policy(f"p{n}", text) for n, text in enumerate(policies)]
    beside = parse_policy("shade", shadow, shadow=True)
    return PolicyIndex(parsed).decide(question), PolicyIndex([*parsed, beside]).decide(question)


@pytest.mark.parametrize(
    ("shadow", "policies", "arguments", "said"),
    [
        (FORBID_LARGE, [PERMIT], {"amount": 101}, "would refuse it"),
        (PERMIT, [], {}, "would allow it"),
        (f'@approval("ADMIN") {PERMIT}', [PERMIT], {}, "would ask ADMIN about it"),
        (f'@approval("ADMIN") {PERMIT}', [f'@approval("DEVELOPER") {PERMIT}'], {}, "ask ADMIN about it"),
        # It stumbles, which would deny; and so it does where Cedar could not even be given the arguments.
        (FORBID_LARGE, [PERMIT], {}, "would refuse it"),
        (FORBID_LARGE, [PERMIT], {"amount": 0.5}, "would refuse it"),
        (FORBID_LARGE, [PERMIT], {"amount": 100}, ""),
        (PERMIT, [PERMIT], {}, ""),
        (FORBID_LARGE, [], {"amount": 101}, ""),
    ],
)
def test_a_policy_in_shadow_mode_decides_nothing_and_says_what_it_would_change(
    shadow: str, policies: list[str], arguments: dict[str, Any], said: str
) -> None:
    without, beside = decide_beside(shadow, *policies, arguments=arguments)
    assert (beside.allowed, beside.policy_ids, beside.approval) == (
        without.allowed,
        without.policy_ids,
        without.approval,
    )
    assert beside.shadow_policy_ids == (("shade",) if said else ())
    assert said in beside.explanation
    assert said or beside == without


def test_a_submitter_that_is_not_known_denies_what_asks_for_it() -> None:
    text = 'permit (principal, action, resource) when { context.submitter.subject == "ada" };'
    assert not decide(text, submitter=None).allowed


# The trap: a value that makes a forbid stumble must never open what a good value keeps closed.
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1000, 1000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_LARGEST = 2**63 - 1
_MISSING = object()
_unusual = st.sampled_from(
    [_MISSING, None, 100.5, 1e300, _LARGEST, _LARGEST + 1, -(2**70), "100", [None], {}]
)
_GUARDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "amount": (
        FORBID_LARGE,
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value <= 100,
    ),
    "path": (
        'forbid (principal, action, resource) when { context.arguments.path like "/etc/*" };',
        lambda value: isinstance(value, str) and not value.startswith("/etc/"),
    ),
    "mode": (
        'forbid (principal, action, resource) unless { context.arguments.mode == "safe" };',
        lambda value: value == "safe",
    ),
    "tags": (
        'forbid (principal, action, resource) when { context.arguments.tags.contains("secret") };',
        lambda value: isinstance(value, list) and "secret" not in value,
    ),
}


@settings(max_examples=300, deadline=None)
@given(member=st.sampled_from(sorted(_GUARDS)), value=_unusual | _json)
def test_only_a_value_that_the_guard_means_to_let_through_opens_it(member: str, value: Any) -> None:
    guard, harmless = _GUARDS[member]  # alone, so that no other forbid hides one that stumbles
    arguments = {} if value is _MISSING else {member: value}
    if decide(PERMIT, guard, arguments=arguments).allowed:
        assert harmless(value)


_conditions = st.sampled_from(
    [
        "",
        " when { context.arguments.amount <= 10 }",
        " unless { context.arguments has approver }",
        ' when { context.submitter.roles.contains("DEVELOPER") }',
        " when { context.arguments.missing == 1 }",
    ]
)
_policies = st.builds(
    lambda mode, effect, who, what, condition: (mode, f"{effect} ({who}, action, {what}){condition};"),
    st.sampled_from(["enforced", "shadow"]),
    st.sampled_from(["permit", "forbid"]),
    st.sampled_from(
        [
            "principal",
            "principal is Interlock::Agent",
            'principal == Interlock::Agent::"a"',
            'principal == Interlock::Agent::"b"',
        ]
    ),
    st.sampled_from(
        [
            "resource",
            "resource is Interlock::Tool",
            'resource == Interlock::Tool::"x"',
            'resource == Interlock::Tool::"y"',
        ]
    ),
    _conditions,
)


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(_policies, max_size=8),
    agent=st.sampled_from("abc"),
    tool=st.sampled_from("xyz"),
    arguments=st.fixed_dictionaries(
        {}, optional={"amount": st.sampled_from([1, 11, "1"]), "approver": st.just("ada")}
    ),
)
def test_a_slice_decides_as_the_full_set_would(
    texts: list[tuple[str, str]], agent: str, tool: str, arguments: dict[str, Any]
) -> None:
    policies = [parse_policy(f"p{n}", text, shadow=mode == "shadow") for n, (mode, text) in enumerate(texts)]
    # Whoever names nobody is in every slice: so all of them are in one.
    unsliced = [replace(policy, agent=None, tool=None) for policy in policies]
    question = Question(
        agent=agent,
        agent_version="1.0.0",
        tool=tool,
        attempt=1,
        arguments=arguments,
        submitter=Submitter(tenant="default", subject="ada", roles=("DEVELOPER",)),
    )
    assert _told(PolicyIndex(policies).decide(question)) == _told(PolicyIndex(unsliced).decide(question))


def _told(decision: Decision) -> Any:
    return decision.allowed, decision.policy_ids, decision.doubtful, decision.shadow_policy_ids


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "exactly one policy"),
        ("// nothing", "exactly one policy"),
        (PERMIT + PERMIT, "exactly one policy"),
        ("permit (principal", "not Cedar"),
        ("permit (principal == ?principal, action, resource);", "template"),
        ('permit (principal == User::"x", action, resource);', "Interlock::Agent"),
        ("permit (principal is Person, action, resource);", "Interlock::Agent"),
        ('permit (principal in Interlock::Agent::"x", action, resource);', "no groups"),
        ('permit (principal, action, resource == Interlock::Agent::"x");', "Interlock::Tool"),
        ('permit (principal, action == Interlock::Action::"read", resource);', "call_tool"),
        ("permit (principal, action, resource) when { context.argument.x == 1 };", "no attribute `argument`"),
        ("permit (principal, action, resource) when { context has input };", "no attribute `input`"),
        ("permit (principal, action, resource) when { context.submitter.role == 1 };", "no attribute `role`"),
        (
            "permit (principal, action, resource) when { principal.name == 1 };",
            "`principal` has no attributes",
        ),
        (f"permit (principal, action, resource) when {{ {'(' * 900}true{')' * 900} }};", "nested deeper"),
        (f"permit (principal, action, resource) when {{ {'[' * 900}{']' * 900} == 1 }};", "nested deeper"),
        (
            f"permit (principal, action, resource) when {{ {' && '.join(['true'] * 900)} }};",
            "too many operators",
        ),
        (f'@note("{"x" * 11_000}") {PERMIT}', "longer than"),
    ],
)
def test_a_text_that_could_never_decide_anything_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(PolicyTextError, match=complaint):
        parse_policy("p", text)


def test_brackets_in_texts_and_comments_are_no_nesting() -> None:
    condition = f'context.agent_version != "{"[" * 90}"'
    text = f"// {'(' * 90}\npermit (principal, action, resource) when {{ {condition} }};"
    assert parse_policy("p", text).policy_id == "p"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('@aproval("ADMIN") permit (principal, action, resource);', "@aproval"),
        ('@approval("NOBODY") permit (principal, action, resource);', "DEVELOPER"),
        ("@approval permit (principal, action, resource);", "DEVELOPER"),
        ('@approval("ADMIN") forbid (principal, action, resource);', "forbid"),
    ],
)
def test_an_annotation_that_would_do_nothing_is_no_policy(text: str, said: str) -> None:
    with pytest.raises(PolicyTextError, match=said):
        parse_policy("p", text)


def test_the_strictest_approval_of_those_that_allow_counts_and_none_of_the_others() -> None:
    large = (
        '@approval("ADMIN") permit (principal, action, resource)'
        " when { context.arguments has amount && context.arguments.amount > 100 };"
    )
    policies = (PERMIT, f'@approval("DEVELOPER") {PERMIT}', large)
    found = [decide(*policies, arguments={"amount": amount}).approval for amount in (100, 101)]
    assert found == ["DEVELOPER", "ADMIN"]
    assert decide(PERMIT, large, arguments={"amount": 100}).approval == ""
