"""The pure rules of the registry: versions, schemas, capabilities, matching."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_svc import capabilities, matching, schemas, specs, versions

_NUMBERS = st.integers(min_value=0, max_value=999)


@given(st.tuples(_NUMBERS, _NUMBERS, _NUMBERS), st.tuples(_NUMBERS, _NUMBERS, _NUMBERS))
def test_releases_are_ordered_as_their_numbers(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    first, second = versions.Version(*one), versions.Version(*other)
    assert (first < second) == (one < other)
    assert versions.parse(str(first)) == first


def test_pre_releases_follow_the_precedence_of_the_semver_page() -> None:
    spelled = (
        "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0"
    )
    ordered = [version for text in spelled.split() if (version := versions.parse(text)) is not None]
    assert len(ordered) == len(spelled.split())
    assert all(lower < higher for lower, higher in itertools.pairwise(ordered))


@pytest.mark.parametrize(
    "text", ["", "1", "1.2", "v1.2.3", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+build", "1.2.3\n", "9" * 70]
)
def test_what_is_not_a_version_is_refused(text: str) -> None:
    assert versions.parse(text) is None


def test_a_plain_object_schema_may_be_published() -> None:
    schema = {
        "type": "object",
        "properties": {"path": {"type": "string", "pattern": "^[a-z]+$"}},
        "required": ["path"],
    }
    assert schemas.problems(schema, must_be_object=True) == []


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1/x"}}}, "must stay within"),
        ({"type": "object", "properties": {"a": {"$dynamicRef": "other.json"}}}, "must stay within"),
        ({"type": "nothing"}, "not a valid schema"),
        (
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a)\\1"}}},
            "does not compile",
        ),
        (
            {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=a)b"}}},
            "does not compile",
        ),
        ({"type": "object", "anyOf": [{"type": "object"}] * 65}, "alternatives"),
        ({"type": "array"}, '"type" must be "object"'),
        ({"type": "object", "required": ["a"], "default": {}}, '"default"'),
        ({"type": "object", "required": ["a"], "examples": [{"a": 1}, {}]}, "example 1"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}, "$schema"),
        ([], "JSON object"),
    ],
)
def test_a_schema_that_could_hurt_a_consumer_is_refused_with_its_reason(schema: object, said: str) -> None:
    assert said in " ".join(schemas.problems(schema, must_be_object=True))


def test_a_schema_nested_too_deep_is_refused() -> None:
    schema: dict[str, object] = {"type": "object"}
    for _ in range(40):
        schema = {"type": "object", "properties": {"a": schema}}
    assert "nested deeper" in schemas.problems(schema, must_be_object=True)[0]


def test_a_tools_profile_is_a_name() -> None:
    python = {"source": "def run(): ...\n", "profile": "Data/.."}
    assert [field for field, _ in specs.tool_flaws({"python": python})] == ["spec.python.profile"]
    assert list(specs.tool_flaws({"python": python | {"profile": "data-2"}})) == []


_AGENT = "async def run(context, task):\n    return task\n"


@pytest.mark.parametrize(
    ("python", "isolation"),
    [
        ({"source": _AGENT}, "SANDBOXED"),
        ({"source": _AGENT, "limits": {"memory_bytes": "67108864", "cpu": "5s"}}, "SANDBOXED"),
        ({"source": _AGENT.replace("run", "work"), "entrypoint": "work"}, "SANDBOXED"),
        ({"entry_point": "halver"}, "TRUSTED"),
    ],
)
def test_a_python_agent_is_a_source_for_the_sandbox_or_a_trusted_entry_point(
    python: dict[str, object], isolation: str
) -> None:
    spec = {"capabilities": ["a"], "python": python}
    assert list(specs.agent_flaws(spec)) == []
    assert specs.isolation(spec) == isolation


@pytest.mark.parametrize(
    ("python", "fields"),
    [
        ({}, ["source"]),
        ({"source": "def run(context, task): ..."}, ["entrypoint"]),
        ({"source": _AGENT, "entrypoint": "work"}, ["entrypoint"]),
        ({"source": "async def run(:"}, ["source"]),
        ({"source": "#" * (specs.MAX_SOURCE_BYTES + 1)}, ["source"]),
        (
            {"source": _AGENT, "limits": {"memory_bytes": "1", "cpu": "900000s"}},
            ["limits.memory_bytes", "limits.cpu"],
        ),
        ({"entry_point": "a b"}, ["entry_point"]),
        ({"entry_point": "halver", "source": _AGENT, "limits": {}}, ["source", "limits"]),
    ],
)
def test_every_flaw_of_a_python_agent_is_named_with_its_field(
    python: dict[str, object], fields: list[str]
) -> None:
    flaws = specs.agent_flaws({"capabilities": ["a"], "python": python})
    assert [field for field, _ in flaws] == [f"spec.python.{name}" for name in fields]


def test_a_special_capability_covers_the_general_one_and_not_the_other_way_round() -> None:
    assert capabilities.covers("data.csv", "data")
    assert not capabilities.covers("data", "data.csv")
    assert not capabilities.covers("database", "data")


def _agent(
    name: str, *held: str, active: bool = True, tools: tuple[str, ...] = (), disabled: tuple[str, ...] = ()
) -> matching.Agent:
    return matching.Agent(
        name=name,
        version="1.0.0",
        active=active,
        capabilities=held,
        tools=frozenset(tools),
        disabled_tools=frozenset(disabled),
    )


def test_an_exact_match_ranks_above_a_special_one_and_says_why() -> None:
    wanted = matching.Wanted(capabilities=("data.csv",), tools=())
    candidates, rejected = matching.find(
        [_agent("b", "data.csv.summarise"), _agent("a", "data.csv"), _agent("c", "mail")], wanted
    )
    assert [candidate.agent.name for candidate in candidates] == ["a", "b"]
    assert candidates[0].score > candidates[1].score
    assert "has data.csv.summarise, which is a kind of data.csv" in candidates[1].reasons
    assert rejected[0].reasons == ("lacks the capability data.csv",)


def test_a_disabled_agent_or_tool_rejects_the_agent() -> None:
    wanted = matching.Wanted(capabilities=("x",), tools=("t",))
    agents = [
        _agent("a", "x", active=False, tools=("t",)),
        _agent("b", "x", tools=("t",), disabled=("t",)),
        _agent("c", "x"),
    ]
    candidates, rejected = matching.find(agents, wanted)
    assert candidates == []
    assert [rejection.reasons for rejection in rejected] == [
        ("is disabled",),
        ("its tool t is disabled",),
        ("is not bound to the tool t",),
    ]


_HELD = st.lists(st.sampled_from(["a", "a.b", "a.b.c", "d", "d.e"]), min_size=1, max_size=5, unique=True)


@given(
    st.lists(_HELD, max_size=6),
    st.lists(st.sampled_from(["a", "a.b", "d"]), min_size=1, max_size=3, unique=True),
)
def test_matching_sorts_every_agent_once_and_does_not_depend_on_the_order_given(
    held: list[list[str]], wanted: list[str]
) -> None:
    agents = [_agent(f"agent-{index}", *own) for index, own in enumerate(held)]
    asked = matching.Wanted(capabilities=tuple(wanted), tools=())
    result = matching.find(agents, asked)
    assert result == matching.find(agents[::-1], asked)
    assert len(result[0]) + len(result[1]) == len(agents)
    assert all(0 <= candidate.score <= 1 for candidate in result[0])


def test_an_agent_with_a_model_names_its_connection_and_model() -> None:
    llm = {"instructions": "Answer.", "connection": "provider", "model": "small", "temperature": 0.5}
    assert list(specs.agent_flaws({"capabilities": ["a"], "llm": llm})) == []


def test_the_agents_that_a_model_may_give_work_to_are_named_once_each() -> None:
    agents = [{"agent": "writer"}, {"agent": "No Such"}, {"agent": "writer"}]
    llm = {"instructions": "Answer.", "connection": "provider", "model": "small", "agents": agents}
    assert [field for field, _ in specs.agent_flaws({"capabilities": ["a"], "llm": llm})] == [
        "spec.llm.agents[1].agent",
        "spec.llm.agents[2].agent",
    ]


def test_everything_wrong_with_a_model_agent_is_named_at_once() -> None:
    llm = {
        "connection": "No Such",
        "model": "a\nb",
        "max_steps": 1000,
        "max_tokens": "-1",
        "max_cost_micros": "-1",
        "temperature": "NaN",
    }
    fields = [field for field, _ in specs.agent_flaws({"capabilities": ["a"], "llm": llm})]
    assert fields == [
        f"spec.llm.{name}"
        for name in (
            "instructions",
            "connection",
            "model",
            "max_steps",
            "max_tokens",
            "max_cost_micros",
            "temperature",
        )
    ]


def test_a_tool_names_its_connections_once_and_limits_are_not_below_nothing() -> None:
    spec = {
        "description": "Asks.",
        "python": {"source": "def run():\n    return 1\n"},
        "connections": ["orders", "Orders", "orders", "no/such"],
        "limits": {"max_running": -1, "max_calls_per_minute": -2},
    }
    assert [field for field, _ in specs.tool_flaws(spec)] == [
        "spec.connections[1]",
        "spec.connections[2]",
        "spec.connections[3]",
        "spec.limits.max_running",
        "spec.limits.max_calls_per_minute",
    ]
    fine = {**spec, "connections": ["orders"], "limits": {"max_running": 2}}
    assert list(specs.tool_flaws(fine)) == []
    assert [
        field for field, _ in specs.tool_flaws({**fine, "connections": [f"c{n}" for n in range(17)]})
    ] == ["spec.connections"]


def test_everything_wrong_with_a_tool_that_is_a_request_is_named_at_once() -> None:
    http = {
        "connection": "No Such",
        "method": "CONNECT",
        "path": "/a/../{b",
        "query": {"q": "not a name"},
    }
    assert [field for field, _ in specs.tool_flaws({"http": http})] == [
        "spec.http.connection",
        "spec.http.method",
        "spec.http.path",
        "spec.http.query[q]",
    ]
    fine = {"connection": "crm", "path": "/people/{id}", "query": {"q": "words"}}
    assert list(specs.tool_flaws({"http": fine})) == []
