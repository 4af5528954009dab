"""What would become of a call: every check of a real one, and no effect."""

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway_svc.cedar.decision import Question, Submitter, Voice
from gateway_svc.errors import agent_version_not_found, stale
from gateway_svc.pipeline.binding import MAX_SILENCE_SECONDS, Registry
from gateway_svc.pipeline.pending import Pending
from gateway_svc.pipeline.tool_work import Judged
from gateway_svc.tool_call import Asked
from gateway_svc.verdicts import Check, Verdict, Verdicts
from interlock.common.v1.permit_pb2 import StepPermit
from interlock.registry.v1 import agent_pb2, tool_pb2
from svc_kit.errors import DomainError, InvalidArgument, Unavailable, Violation, invalid
from svc_kit.strict_json import canonical, digest, parse

MAX_VOICES = 200
_CHECK_SECONDS = 10.0
_NOBODY = uuid.UUID(int=0)


class Judge(Protocol):
    """The checks of a real call, without the asking of people."""

    async def judge(self, pending: Pending) -> Judged:
        """The call, if every check lets it pass; raises the refusal."""


class Policies(Protocol):
    """What is asked of the live copy of the policies."""

    def voices(self, tenant: str, agent: str, tool: str, question: Question | None) -> list[Voice]:
        """What each policy that looks at such calls says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What would become of a call; `refusal` is None when it would start."""

    refusal: DomainError | None
    verdicts: Sequence[Verdict]
    voices: Sequence[Voice]
    approval_role: str
    tool_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedTool:
    """One tool of an agent version; `hindrance` is empty when some call of it could start."""

    tool: str
    tool_version: str
    hindrance: str
    voices: Sequence[Voice]


class CallChecks:
    """Answers for one tenant at a time."""

    def __init__(self, judge: Judge, registry: Registry, policies: Policies) -> None:
        self._judge = judge
        self._registry = registry
        self._policies = policies

    async def check(
        self,
        submitter: Submitter,
        *,
        agent: str,
        agent_version: str,
        tool: str,
        arguments_json: str,
    ) -> Checked:
        """Raises INVALID_FIELDS, AGENT_VERSION_NOT_FOUND, or POLICY_STALE."""
        _require(agent=agent, tool=tool)
        tenant = submitter.tenant
        version = self._known_version(tenant, agent, agent_version)
        bound = next((each for each in version.spec.tools if each.tool == tool), None)
        asked = Asked(
            tenant=tenant,
            call_id=_NOBODY,
            task_id=_NOBODY,
            step_key="check",
            attempt=1,
            agent=agent,
            agent_version=version.version,
            agent_digest=version.digest,
            tool=tool,
            tool_version=bound.version if bound else "",
            tool_digest=bound.digest if bound else "",
            argument_digest=_digest(arguments_json or "{}"),
            worker="",
            submitters=(submitter,),
        )
        pending = Pending(
            asked=asked,
            permit=StepPermit(),
            caller=submitter.subject,
            arguments_json=arguments_json or "{}",
            deadline=time.monotonic() + _CHECK_SECONDS,
            verdicts=Verdicts(),
        )
        pending.verdicts.passed(Check.ROLE, "Asked as a question: a real call needs a permit of its task.")
        role, refusal = "", None
        try:
            judged = await self._judge.judge(pending)
            role = judged.approval_role
            said = f"Somebody with {role} has to approve each such call." if role else "None is asked for."
            pending.verdicts.passed(Check.APPROVAL, said)
        except Unavailable:
            raise
        except DomainError as error:
            refusal = error
        return Checked(
            refusal=refusal,
            verdicts=pending.verdicts.all(),
            voices=self._voices(asked, pending.arguments_json),
            approval_role=role,
            tool_version=asked.tool_version,
        )

    async def allowed_tools(
        self, tenant: str, *, agent: str, agent_version: str
    ) -> tuple[str, Sequence[AllowedTool]]:
        """The version, and each tool that it names; raises AGENT_VERSION_NOT_FOUND or POLICY_STALE."""
        _require(agent=agent)
        version = self._known_version(tenant, agent, agent_version)
        return version.version, [self._allowed(tenant, version, bound) for bound in version.spec.tools]

    def _allowed(
        self, tenant: str, version: agent_pb2.AgentVersion, bound: agent_pb2.ToolBinding
    ) -> AllowedTool:
        voices = self._policies.voices(tenant, version.agent, bound.tool, None)
        return AllowedTool(
            tool=bound.tool,
            tool_version=bound.version,
            hindrance=next(self._hindrances(tenant, version.agent, bound.tool, voices), ""),
            voices=voices,
        )

    def _hindrances(self, tenant: str, agent: str, tool: str, voices: Sequence[Voice]) -> Iterator[str]:
        known = self._registry.agent(tenant, agent)
        if known is None or known.status != tool_pb2.STATUS_ACTIVE:
            yield f"agent {agent} is disabled"
        found = self._registry.tool(tenant, tool)
        if found is None or found.status != tool_pb2.STATUS_ACTIVE:
            yield f"tool {tool} is disabled"
        deciding = [each for each in voices if not each.policy.shadow]
        if not any(each.policy.permits for each in deciding):
            yield f"no policy permits it; interlock allow {agent} {tool}"
        for each in deciding:
            if not each.policy.permits and not each.policy.conditional:
                yield f"policy {each.policy.policy_id} forbids it"

    def _known_version(self, tenant: str, agent: str, version: str) -> agent_pb2.AgentVersion:
        age = self._registry.age() if self._registry.ready else float("inf")
        if age > MAX_SILENCE_SECONDS:
            raise stale("registry", age)
        known = self._registry.agent(tenant, agent)
        wanted = version or (known.latest_version if known is not None else "")
        found = self._registry.agent_version(tenant, agent, wanted)
        if found is None:
            raise agent_version_not_found(agent, version)
        return found

    def _voices(self, asked: Asked, arguments_json: str) -> list[Voice]:
        try:
            arguments = parse(arguments_json, field="arguments_json")
        except InvalidArgument:
            arguments = None
        if not isinstance(arguments, dict):
            return []
        question = Question(
            agent=asked.agent,
            agent_version=asked.agent_version,
            tool=asked.tool,
            arguments=arguments,
            attempt=asked.attempt,
            submitter=asked.submitter,
        )
        return self._policies.voices(asked.tenant, asked.agent, asked.tool, question)[:MAX_VOICES]


def _require(**names: str) -> None:
    if flaws := [Violation(field, "is required") for field, name in names.items() if not name]:
        raise invalid(flaws)


def _digest(arguments_json: str) -> str:
    """Of the canonical arguments; what is no JSON is refused later, with all that is wrong."""
    try:
        return digest(canonical(parse(arguments_json, field="arguments_json")))
    except InvalidArgument:
        return ""
