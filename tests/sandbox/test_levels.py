import pytest

from interlock_sandbox import (
    IsolationLevel,
    Layer,
    LayerStatus,
    Limits,
    Sandbox,
    SandboxStatus,
    SandboxUnavailable,
    ToolProgram,
    probe,
)
from interlock_sandbox.cgroups import CgroupsMissing, CgroupTree
from interlock_sandbox.levels import PARTIAL_LAYERS, STANDARD_LAYERS, level_of, without
from interlock_sandbox.negotiation import demand
from interlock_sandbox.remedies import HostFacts, remedy_for
from interlock_sandbox.selfcheck import judge


def test_levels_are_ordered() -> None:
    assert IsolationLevel.NONE < IsolationLevel.PARTIAL < IsolationLevel.STANDARD < IsolationLevel.FULL


@pytest.mark.parametrize(
    ("layers", "level"),
    [
        (frozenset(Layer), IsolationLevel.FULL),
        (STANDARD_LAYERS, IsolationLevel.STANDARD),
        (PARTIAL_LAYERS, IsolationLevel.PARTIAL),
        (frozenset[Layer](), IsolationLevel.NONE),
    ],
)
def test_layers_add_up_to_a_level(layers: frozenset[Layer], level: IsolationLevel) -> None:
    assert level_of(layers) is level


@pytest.mark.parametrize("layer", sorted(STANDARD_LAYERS))
def test_no_layer_of_the_standard_level_can_be_missing(layer: Layer) -> None:
    assert level_of(STANDARD_LAYERS - {layer}) < IsolationLevel.STANDARD


def test_what_stands_on_a_missing_layer_is_missing_too() -> None:
    left = without(STANDARD_LAYERS, Layer.NAMESPACES)
    assert left == STANDARD_LAYERS - {Layer.NAMESPACES, Layer.NETWORK, Layer.ROOT}


async def test_the_probe_names_every_layer_and_its_remedy() -> None:
    status = await probe()
    assert [layer.layer for layer in status.layers] == list(Layer)
    for layer in status.problems:
        assert layer.reason
        assert layer.remedy


async def test_a_sandbox_refuses_to_start_below_its_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_here() -> CgroupTree:
        raise CgroupsMissing("this host hands us none")

    monkeypatch.setattr(CgroupTree, "create", none_here)
    demanding = Sandbox(minimum=IsolationLevel.FULL)
    with pytest.raises(SandboxUnavailable, match=r"(?s)FULL is required.*cgroups.*remedy") as refused:
        await demanding.start()
    assert refused.value.status is not None
    assert refused.value.status.level < IsolationLevel.FULL


def test_no_isolation_at_all_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="without isolation"):
        Sandbox(minimum=IsolationLevel.NONE)


def test_the_refusal_names_each_missing_layer_with_its_remedy() -> None:
    missing = LayerStatus(
        layer=Layer.LANDLOCK, present=False, reason="no Landlock here", remedy="get a kernel"
    )
    status = SandboxStatus(level=IsolationLevel.PARTIAL, layers=(missing,), interpreter="3")
    with pytest.raises(SandboxUnavailable, match=r"(?s)landlock: no Landlock here.*remedy: get a kernel"):
        demand(status, IsolationLevel.STANDARD)
    demand(status, IsolationLevel.PARTIAL)


@pytest.mark.parametrize(
    ("layer", "code", "host", "words"),
    [
        (Layer.NAMESPACES, 1, HostFacts(unprivileged_userns_clone=0), "kernel.unprivileged_userns_clone=1"),
        (
            Layer.NAMESPACES,
            1,
            HostFacts(apparmor_restrict_unprivileged_userns=1),
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (Layer.ROOT, 13, HostFacts(in_container=True), "may read"),
        (Layer.ROOT, 1, HostFacts(apparmor_restrict_unprivileged_userns=1), "apparmor_restrict"),
        (Layer.NAMESPACES, 28, HostFacts(), "user.max_user_namespaces"),
        (Layer.NAMESPACES, 1, HostFacts(max_user_namespaces=0), "user.max_user_namespaces"),
        (Layer.NAMESPACES, 1, HostFacts(in_container=True), "seccomp=unconfined"),
        (Layer.NETWORK, 38, HostFacts(), "CONFIG_USER_NS"),
        (Layer.LANDLOCK, 95, HostFacts(), "lsm="),
        (Layer.SECCOMP, 22, HostFacts(), "CONFIG_SECCOMP_FILTER"),
    ],
)
def test_the_remedy_is_the_one_for_this_host(layer: Layer, code: int, host: HostFacts, words: str) -> None:
    assert words in remedy_for(layer, code, host)


HELD = {
    "pid": 1,
    "uid": 1000,
    "memory_limited": True,
    "canary": 2,
    "list_root": 13,
    "socket": 1,
    "exec": 1,
    "capabilities": 0,
    "no_new_privs": 1,
    "interfaces": ["lo"],
}


@pytest.mark.parametrize(
    ("fact", "value", "layer"),
    [
        ("pid", 4711, Layer.NAMESPACES),
        ("uid", 0, Layer.NAMESPACES),
        ("interfaces", ["eth0", "lo"], Layer.NETWORK),
        ("canary", 0, Layer.ROOT),
        ("capabilities", 1, Layer.CAPABILITIES),
        ("no_new_privs", 0, Layer.CAPABILITIES),
        ("memory_limited", False, Layer.RLIMITS),
        ("list_root", 0, Layer.LANDLOCK),
        ("socket", 0, Layer.SECCOMP),
        ("exec", 2, Layer.SECCOMP),
    ],
)
def test_an_attempt_that_succeeds_disproves_its_layer(fact: str, value: object, layer: Layer) -> None:
    assert judge(HELD, STANDARD_LAYERS) == {}
    assert set(judge(HELD | {fact: value}, STANDARD_LAYERS)) == {layer}
    assert judge(HELD | {fact: value}, STANDARD_LAYERS - {layer}) == {}


@pytest.mark.parametrize(
    "wrong",
    [{"wall_seconds": 0}, {"memory_bytes": 1000}, {"open_files": 2}, {"processes": 0}, {"disk_bytes": -1}],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)


def test_limits_of_the_wrong_type_are_refused() -> None:
    with pytest.raises(TypeError, match="memory_bytes"):
        Limits(memory_bytes=1e9)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"entrypoint": "a.b"}, {"source": "x='\ud800'"}, {"filename": "x" * 300}])
def test_programs_that_make_no_sense_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  three kinds of nonsense
        ToolProgram(**{"source": "", **wrong})  # type: ignore[arg-type]
