"""Who may call what: every method of every door, found by reflection, with every role and every bad token."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from interlock.client import Client
from interlock.common.remote_error import RemoteError
from interlock.gateway.v1 import policy_service_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2
from interlock.registry.v1 import registry_service_pb2, tool_pb2, tool_service_pb2
from svc_kit.identity import LocalIssuer, Role
from tests.e2e.catalogue import Work, publish
from tests.e2e.doors import Door, Method, bearer, open_doors
from tests.e2e.observing import calls, full_trail, run
from tests.e2e.suite import RunningSuite

_EVERYBODY = frozenset(Role)
_SUBMITTERS = frozenset({Role.SUBMITTER, Role.DEVELOPER})
_TASK_READERS = frozenset({Role.VIEWER, Role.SUBMITTER, Role.AUDITOR})
# The suite's own processes read the registry too.
_REGISTRY_READERS = _TASK_READERS | {Role.SERVICE, Role.WORKER}
_READERS = frozenset({Role.VIEWER, Role.AUDITOR})
_EDITORS = frozenset({Role.SUPER_ADMIN})
_WORKERS = frozenset({Role.WORKER})
_SERVICES = frozenset({Role.SERVICE})
_POLICY_READERS = frozenset({Role.DEVELOPER, Role.AUDITOR})
_ADMINS = frozenset({Role.ADMIN})

_WORKER_SERVICE = "interlock.orchestrator.v1.WorkerService"

# What the contract promises, written down a second time.
NEEDS: Mapping[str, Mapping[str, frozenset[Role]]] = {
    "interlock.orchestrator.v1.OrchestratorService": {
        "SubmitTask": _SUBMITTERS,
        "GetTask": _TASK_READERS,
        "ListTasks": _TASK_READERS,
        "ListChildTasks": _TASK_READERS,
        "CountTasks": _TASK_READERS,
        "QueryTaskMetrics": _TASK_READERS,
        "ExplainTask": _TASK_READERS,
        "CancelTask": _SUBMITTERS,
        "PauseTask": _SUBMITTERS,
        "ResumeTask": _SUBMITTERS,
        # A service brings the decision about an approval.
        "ProvideInput": _SUBMITTERS | {Role.SERVICE},
        "RetryTask": _SUBMITTERS,
        "RedriveTasks": _SUBMITTERS,
        "WatchTask": _TASK_READERS,
        "WatchTasks": _TASK_READERS,
        "WaitTask": _TASK_READERS,
        "ListTaskEvents": _TASK_READERS,
        "ListTaskSteps": _TASK_READERS,
        "PutBlob": _SUBMITTERS,
        "GetBlob": _TASK_READERS,
        "WatchAttempts": _SERVICES,
        "GetPublicKeys": _EVERYBODY,
    },
    "interlock.orchestrator.v1.QueueService": {
        "CreateQueue": _ADMINS,
        "GetQueue": _TASK_READERS,
        "ListQueues": _TASK_READERS,
        "UpdateQueue": _ADMINS,
        "DeleteQueue": _ADMINS,
        "PauseQueue": _ADMINS,
        "ResumeQueue": _ADMINS,
        "PurgeQueue": _ADMINS,
        "ListWorkers": frozenset({Role.VIEWER}),
        "DrainWorker": _ADMINS,
        "ResumeWorker": _ADMINS,
        "EndWorker": _ADMINS,
    },
    _WORKER_SERVICE: {
        "WorkerSession": _WORKERS,
        "ClaimTask": _WORKERS,
        "RecordStep": _WORKERS,
        "GetStepOutput": _WORKERS,
        "CompleteTask": _WORKERS,
        "FailTask": _WORKERS,
        "ReleaseTask": _WORKERS,
        "AwaitChildren": _WORKERS,
        "RequestInput": _WORKERS,
        "GetInputBlob": _WORKERS,
        "PutResultBlob": _WORKERS,
        "EmitProgress": _WORKERS,
    },
    "interlock.registry.v1.RegistryService": {
        "CreateAgent": _EDITORS,
        "GetAgent": _REGISTRY_READERS,
        "ListAgents": _REGISTRY_READERS,
        "PublishAgentVersion": _EDITORS,
        "GetAgentVersion": _REGISTRY_READERS,
        "ListAgentVersions": _REGISTRY_READERS,
        "SetAgentStatus": _EDITORS,
        "FindAgentsForTask": _REGISTRY_READERS,
        "WatchRegistry": _SERVICES | _WORKERS,
    },
    "interlock.registry.v1.ToolService": {
        "CreateTool": _EDITORS,
        "GetTool": _REGISTRY_READERS,
        "ListTools": _REGISTRY_READERS,
        "PublishToolVersion": _EDITORS,
        "GetToolVersion": _REGISTRY_READERS,
        "ListToolVersions": _REGISTRY_READERS,
        "SetToolStatus": _EDITORS,
    },
    "interlock.gateway.v1.GatewayService": {
        "ExecuteTool": _WORKERS,
        "CallModel": _WORKERS,
        "CancelToolCall": frozenset({Role.DEVELOPER}),
        "CheckToolCall": _POLICY_READERS,
        "ListAllowedTools": _POLICY_READERS,
        "GetToolCall": _READERS,
        "ListToolCalls": _READERS,
        "GetSandboxStatus": frozenset({Role.VIEWER}),
        "GetPublicKeys": _EVERYBODY,
    },
    "interlock.gateway.v1.PolicyService": {
        "CreatePolicy": _ADMINS,
        "GetPolicy": _POLICY_READERS,
        "ListPolicies": _POLICY_READERS,
        "UpdatePolicy": _ADMINS,
        "ListPolicyVersions": _POLICY_READERS,
        "ExplainDecision": _POLICY_READERS,
        "DeletePolicy": _ADMINS,
    },
    "interlock.gateway.v1.ApprovalService": {
        "GetApproval": _POLICY_READERS,
        "ListApprovals": _READERS,
        "WatchApprovals": _READERS,
        "DecideApproval": frozenset({Role.DEVELOPER}),
    },
    "interlock.gateway.v1.LimitService": {"SetCallLimit": _ADMINS, "ListCallLimits": _ADMINS},
    "interlock.gateway.v1.ConnectionService": dict.fromkeys(
        (
            "CreateConnection",
            "GetConnection",
            "ListConnections",
            "UpdateConnection",
            "DeleteConnection",
            "SetConnectionCredential",
        ),
        _ADMINS,
    ),
    "interlock.audit.v1.AuditService": {
        "Append": _SERVICES,
        "AppendStream": _SERVICES,
        "GetEntry": _READERS,
        "GetPayload": frozenset({Role.DEVELOPER, Role.AUDITOR}),
        "GetAuditTrail": _READERS,
        "SearchEntries": _READERS,
        "TailEntries": _READERS,
        "ExportLog": frozenset({Role.AUDITOR}),
        "VerifyRange": frozenset({Role.ADMIN, Role.AUDITOR}),
        "GetCheckpoint": _READERS,
        "GetInclusionProof": _READERS,
        "GetConsistencyProof": _READERS,
        "RotateKey": frozenset({Role.SUPER_ADMIN}),
        "GetCompleteness": frozenset({Role.ADMIN, Role.AUDITOR}),
        "GetPublicKeys": _EVERYBODY,
    },
    "interlock.audit.v1.ErasureService": dict.fromkeys(
        ("ErasePayload", "GetErasure", "ListErasures"), _ADMINS
    ),
    "interlock.common.v1.TaskErasureService": {"EraseTasks": _SERVICES},
    "interlock.audit.v1.RetentionService": {
        "SetRetentionPolicy": _ADMINS,
        "GetRetentionPolicy": _READERS,
        "ListRetentionPresets": _READERS,
        "PreviewRetention": frozenset({Role.ADMIN, Role.AUDITOR}),
        "PlaceHold": frozenset({Role.ADMIN, Role.AUDITOR}),
        "ReleaseHold": _ADMINS,
        "ListHolds": frozenset({Role.ADMIN, Role.AUDITOR}),
    },
}
INTERNAL = {
    *(f"{_WORKER_SERVICE}/{name}" for name in NEEDS[_WORKER_SERVICE]),
    "interlock.orchestrator.v1.OrchestratorService/WatchAttempts",
    "interlock.registry.v1.RegistryService/WatchRegistry",
    "interlock.gateway.v1.GatewayService/ExecuteTool",
    "interlock.gateway.v1.GatewayService/CallModel",
    "interlock.audit.v1.AuditService/Append",
    "interlock.audit.v1.AuditService/AppendStream",
    "interlock.common.v1.TaskErasureService/EraseTasks",
}
# What concerns all tenants is asked for in the name of the tenant of the suite itself.
OPERATORS_ALONE = {"RotateKey"}
_LADDER = (Role.VIEWER, Role.DEVELOPER, Role.ADMIN, Role.SUPER_ADMIN)


@pytest.fixture(scope="module")
def doors(suite: RunningSuite) -> Iterator[list[Door]]:
    with open_doors(suite) as found:
        yield found


def methods_of(doors: list[Door]) -> Iterator[tuple[Door, Method]]:
    """Every method at every door."""
    for door in doors:
        for method in door.methods():
            yield door, method


def test_the_doors_tell_of_the_whole_contract_and_of_nothing_else(doors: list[Door]) -> None:
    for internal in (True, False):
        told = {method.full_name for door, method in methods_of(doors) if door.internal is internal}
        assert told == {f"{service}/{name}" for service, names in NEEDS.items() for name in names}


@pytest.mark.parametrize("role", sorted(Role))
def test_a_role_passes_where_it_is_declared_and_nowhere_else(
    suite: RunningSuite, doors: list[Door], role: Role
) -> None:
    tenant = "system" if role is Role.SERVICE else "default"
    metadata = bearer(suite.token(role, tenant=tenant))
    as_operator = bearer(suite.token(role, tenant="system"))
    for door, method in methods_of(doors):
        caller = as_operator if method.name in OPERATORS_ALONE else metadata
        refusal = refusal_of(door.call(method, caller))
        needed = NEEDS[method.service][method.name]
        if method.full_name in INTERNAL and not door.internal:
            assert refusal == ("PERMISSION_DENIED", "INTERNAL_DOOR"), method.full_name
        elif held(role) & needed:
            assert refusal is None, method.full_name
        else:
            assert refusal == ("PERMISSION_DENIED", "ROLE_REQUIRED"), method.full_name


def held(role: Role) -> frozenset[Role]:
    """The role with all that it includes."""
    if role in _LADDER:
        return frozenset(_LADDER[: _LADDER.index(role) + 1])
    return frozenset({role})


def refusal_of(answer: bytes | RemoteError) -> tuple[str, str] | None:
    """Code and reason with which the caller was sent away; None when the method itself has answered."""
    if isinstance(answer, RemoteError) and answer.reason in {
        "TOKEN_MISSING",
        "TOKEN_INVALID",
        "TOKEN_EXPIRED",
        "ROLE_REQUIRED",
        "INTERNAL_DOOR",
    }:
        return answer.code.name, answer.reason
    assert not isinstance(answer, RemoteError) or answer.code is not grpc.StatusCode.INTERNAL, answer
    return None


def expired(suite: RunningSuite, _: Path) -> str:
    return suite.token("SUPER_ADMIN", ttl=-3600)


def foreign(suite: RunningSuite, folder: Path) -> str:
    """Of another suite's issuer."""
    return LocalIssuer(folder / "key.pem", "another-suite").mint("mallory", "default", [Role.SUPER_ADMIN], 60)


def impostor(suite: RunningSuite, folder: Path) -> str:
    """In the name of this suite's issuer, by another key."""
    issuer = LocalIssuer(folder / "key.pem", suite.folder.recall().suite_id)
    return issuer.mint("mallory", "default", [Role.SUPER_ADMIN], 60)


def altered(suite: RunningSuite, _: Path) -> str:
    """A viewer's token whose claims say something else than what was signed."""
    header, claims, signature = suite.token("VIEWER").split(".")
    said = json.loads(base64.urlsafe_b64decode(claims + "=="))
    said["roles"] = ["SUPER_ADMIN"]
    return f"{header}.{_base64(said)}.{signature}"


def unsigned(suite: RunningSuite, _: Path) -> str:
    """Algorithm `none`."""
    claims = suite.token("SUPER_ADMIN").split(".")[1]
    return f"{_base64({'alg': 'none', 'typ': 'JWT'})}.{claims}."


def garbage(suite: RunningSuite, _: Path) -> str:
    return "no-token-at-all"


def _base64(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize("make", [expired, foreign, impostor, altered, unsigned, garbage])
def test_a_token_that_is_not_good_is_refused_by_every_method(
    suite: RunningSuite, doors: list[Door], tmp_path: Path, make: Callable[[RunningSuite, Path], str]
) -> None:
    reason = "TOKEN_EXPIRED" if make is expired else "TOKEN_INVALID"
    metadata = bearer(make(suite, tmp_path))
    assert_all_refused(doors, metadata, reason)


def test_a_call_without_a_token_is_refused_by_every_method(doors: list[Door]) -> None:
    assert_all_refused(doors, (), "TOKEN_MISSING")


def assert_all_refused(doors: list[Door], metadata: Any, reason: str) -> None:
    """By every method that the door serves."""
    for door, method in methods_of(doors):
        answer = door.call(method, metadata)
        assert isinstance(answer, RemoteError), method.full_name
        shut = method.full_name in INTERNAL and not door.internal
        expectation = ("PERMISSION_DENIED", "INTERNAL_DOOR") if shut else ("UNAUTHENTICATED", reason)
        assert (answer.code.name, answer.reason) == expectation, method.full_name
        assert answer.request_id


SECRET = Work(name="secret-of-default", source="def run():\n    return 'secret'\n")


@pytest.fixture
async def known(suite: RunningSuite, client: Client) -> dict[str, Any]:
    """What can be named of one task of tenant `default`, by the names that requests use."""
    request = registry_service_pb2.ListAgentsRequest(page_size=1000)
    agents = await client.call(client.agents.ListAgents, request)
    if SECRET.name not in {agent.name for agent in agents.agents}:
        await publish(suite, [SECRET])
    task = await run(client, SECRET.name)
    (call,) = await calls(client, task.task_id)
    (entry, *_) = await full_trail(client, task)
    return {
        "task_id": task.task_id,
        "call_id": call.call_id,
        "event_id": entry.fields["id"],
        "policy_id": f"{SECRET.name}-may",
        "agent": SECRET.name,
        "tool": SECRET.tool,
        "version": "1.0.0",
        "input_json": "{}",
        "capabilities": ["testing"],
        "status": tool_pb2.STATUS_DISABLED,
    }


@pytest.mark.parametrize("claims_the_tenant", [False, True])
async def test_another_tenant_sees_and_changes_nothing(
    suite: RunningSuite,
    client: Client,
    doors: list[Door],
    known: dict[str, Any],
    *,
    claims_the_tenant: bool,
) -> None:
    before = await everything_of(client)
    metadata = list(bearer(suite.token("SUPER_ADMIN", "AUDITOR", "SUBMITTER", tenant="elsewhere")))
    if claims_the_tenant:
        metadata.append(("x-interlock-tenant", "default"))
    for door, method in methods_of([door for door in doors if not door.internal]):
        if method.full_name in INTERNAL or method.name.startswith(("Create", "Publish")):
            continue  # what is created is the caller's own
        answer = door.call(method, metadata, about(known, method))
        if isinstance(answer, RemoteError):
            assert answer.code.name in {"NOT_FOUND", "PERMISSION_DENIED", "INVALID_ARGUMENT"}, answer
        else:
            assert not traces_in(answer, known), method.full_name
    assert await everything_of(client) == before


def about(known: dict[str, Any], method: Method) -> bytes:
    """A request that names as much of what is known as the method takes."""
    name = known["tool"] if method.service.endswith("ToolService") else known["agent"]
    return method.request(**known, name=name).SerializeToString()


def traces_in(answer: bytes, known: dict[str, Any]) -> list[str]:
    """Which of the secret's names and ids an answer holds."""
    names = [known[name] for name in ("agent", "tool", "task_id", "call_id", "event_id", "policy_id")]
    return [name for name in names if name.encode() in answer]


def test_its_own_tenant_sees_it_by_the_very_same_requests(
    suite: RunningSuite, doors: list[Door], known: dict[str, Any]
) -> None:
    metadata = bearer(suite.token("SUPER_ADMIN", "AUDITOR", "SUBMITTER"))
    seen = set()
    for door, method in methods_of([door for door in doors if not door.internal]):
        if method.name.startswith(("Get", "List", "Find", "Watch")) and method.full_name not in INTERNAL:
            answer = door.call(method, metadata, about(known, method))
            if isinstance(answer, bytes) and traces_in(answer, known):
                seen.add(method.name)
    assert seen == {
        *("GetTask", "ListTasks", "ListTaskSteps", "ListTaskEvents", "WatchTask", "WatchTasks"),
        *("GetToolCall", "ListToolCalls", "ListAllowedTools"),
        *("GetAgent", "ListAgents", "GetAgentVersion", "ListAgentVersions", "FindAgentsForTask"),
        *("GetTool", "ListTools", "GetToolVersion", "ListToolVersions"),
        *("GetPolicy", "ListPolicies", "ListPolicyVersions", "GetEntry", "GetAuditTrail"),
    }


async def test_what_another_tenant_creates_under_a_name_of_ours_is_its_own(
    suite: RunningSuite, client: Client, known: dict[str, Any]
) -> None:
    before = await everything_of(client)
    async with suite.client("SUPER_ADMIN", tenant="elsewhere") as stranger:
        created = await stranger.call(
            stranger.agents.CreateAgent, registry_service_pb2.CreateAgentRequest(name=f"{SECRET.name}-2")
        )
        assert created.agent.creator == "tester"
        found = await stranger.call(stranger.agents.ListAgents, registry_service_pb2.ListAgentsRequest())
        assert [agent.name for agent in found.agents] == [created.agent.name]
    assert await everything_of(client) == before


async def everything_of(client: Client) -> list[Any]:
    """All agents, tools, policies and tasks of tenant `default`."""
    tasks = await client.call(
        client.tasks.ListTasks, orchestrator_service_pb2.ListTasksRequest(page_size=1000)
    )
    agents = await client.call(
        client.agents.ListAgents, registry_service_pb2.ListAgentsRequest(page_size=1000)
    )
    tools = await client.call(client.tools.ListTools, tool_service_pb2.ListToolsRequest(page_size=1000))
    policies = await client.call(
        client.policies.ListPolicies, policy_service_pb2.ListPoliciesRequest(page_size=1000)
    )
    return [tasks, agents, tools, policies]
