"""The demo's acts, in order; each shows the commands that do the same."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path

from interlock.cli.allowing import store_policy
from interlock.cli.cedar import policy_id_for, policy_text
from interlock.cli.connection import client
from interlock.cli.display import clock_time
from interlock.cli.events import state_name, status_name
from interlock.cli.manifest import AgentEntry, read_manifest
from interlock.cli.publishing import publish
from interlock.cli.tracing import Trace, read_trace, trace_lines
from interlock.cli.verdicts import verdict_lines
from interlock.client.client import Client
from interlock.client.errors import InterlockError
from interlock.gateway.v1 import gateway_service_pb2, policy_service_pb2, tool_call_pb2
from interlock.orchestrator.v1 import task_pb2
from interlock_suite.demo.claims import Claims
from interlock_suite.demo.companion import Companion
from interlock_suite.demo.proof import prove
from interlock_suite.demo.screen import Screen
from interlock_suite.demo.table_file import Table, examples
from interlock_suite.errors import SuiteError

MANIFEST = Path("csv_analyst") / "interlock.toml"
AGENT = "csv-analyst"
ALLOWED_FIRST = ("csv_profile", "csv_groups")
ALLOWED_LATER = "csv_report"
_MAX_INPUT_BYTES = 256 * 1024
_TASK_SECONDS = 60.0
_DIGEST_CHARACTERS = len("sha256:") + 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Tells one demo; `play` begins it, and `claims` says in the end what held."""

    data_dir: Path
    companion: Companion
    table: Table
    screen: Screen
    claims: Claims
    tasks: list[task_pb2.Task] = field(default_factory=list)
    """The tasks of this demo as they ended."""

    async def play(self) -> None:
        """All acts. Raises InterlockError, CliError or SuiteError when one cannot go on at all."""
        await self._suite()
        await self._agent()
        refused = await self._refused_task()
        if refused is None:
            return
        completed = await self._allowed_task(refused)
        if completed is None:
            return
        await prove(self.data_dir, refused, completed, self.screen, self.claims)

    async def _suite(self) -> None:
        """Act 1: what runs."""
        started = self.companion.started
        how = "runs already" if started is None else f"started in {started:.1f} s"
        services = ", ".join(sorted(self.companion.addresses))
        self.screen.act(f"The suite {how}: {services} and a worker; data in {self.data_dir}")
        async with client(self.data_dir, "VIEWER") as suite:
            sandbox = await suite.call(
                suite.gateway.GetSandboxStatus, gateway_service_pb2.GetSandboxStatusRequest()
            )
        layers = ", ".join(layer.name for layer in sandbox.layers if layer.active)
        self.screen.line(f"tools are held by sandbox level {sandbox.level}: {layers}")

    async def _agent(self) -> None:
        """Act 2: an agent with three tools, and allows for two of them."""
        self.screen.act("An agent with three tools; nothing is allowed by default")
        manifest = examples() / MANIFEST
        self.screen.command(f"agents publish {_as_seen_from_here(manifest)}")
        async with client(self.data_dir, "SUPER_ADMIN") as suite:
            described = read_manifest(manifest)
            published = [each async for each in publish(suite, described, with_agents=True, dry_run=False)]
        digest = published[-1]["digest"][:_DIGEST_CHARACTERS]
        self.screen.line(f"{AGENT} {published[-1]['version']} {digest}…, plan: {_plan(described.agents[0])}")
        async with client(self.data_dir, "ADMIN") as suite:
            for tool in ALLOWED_FIRST:
                await self._allow(suite, tool)
            taken_back = await self._take_back(suite)
        first, *others = ALLOWED_FIRST
        self.screen.command(
            f"allow {AGENT} {first}", f"# and {', '.join(others)}; {ALLOWED_LATER} is not allowed"
        )
        if taken_back:
            self.screen.line(f"(the allow of {ALLOWED_LATER} that an earlier demo left is taken back)")

    async def _refused_task(self) -> Trace | None:
        """Act 3: a task whose last call is refused; None when it was not."""
        self.screen.act("A task: each call passes the gateway, which checks, records, and only then runs it")
        self.screen.command(f"submit {AGENT} @input.json", f"# {self.table.name} as JSON")
        async with client(self.data_dir, "DEVELOPER") as suite:
            task = await suite.submit(AGENT, _input(self.table), task_type="demo")
            trace = await self._follow(suite, task)
        refused = [step for step in trace.steps if step.status == task_pb2.STEP_STATUS_REFUSED]
        reasons = [step.error.error_class for step in refused]
        was_refused = self.claims.check(
            f"{ALLOWED_LATER}, which nobody had allowed, was refused with POLICY_DENIED",
            reasons == ["POLICY_DENIED"] and refused[0].name == ALLOWED_LATER,
            _ending(trace.task),
        )
        if not was_refused:
            self._explain_missing_refusal(trace)
            return None
        call = trace.calls[refused[0].call_id]
        self.claims.check(
            "nothing was executed for the refused call",
            call.status == tool_call_pb2.TOOL_CALL_STATUS_REFUSED and not call.isolation,
            "the gateway's record says otherwise",
        )
        self.screen.command(f"why {call.call_id}")
        for verdict, line in zip(call.verdicts, verdict_lines(call), strict=True):
            if not verdict.skipped:
                self.screen.line(line.strip(), style="" if verdict.passed else "red")
        skipped = [verdict.check for verdict in call.verdicts if verdict.skipped]
        self.screen.line(f"· {', '.join(skipped)}: not asked any more")
        return trace

    async def _allowed_task(self, refused: Trace) -> Trace | None:
        """Act 4: the same task once a person has allowed the call; None when it did not complete."""
        self.screen.act("A person allows it, and the same task is done again")
        self.screen.command(f"allow {AGENT} {ALLOWED_LATER}")
        async with client(self.data_dir, "ADMIN") as suite:
            await self._allow(suite, ALLOWED_LATER)
        self.screen.command(f"retry {refused.task.task_id}")
        async with client(self.data_dir, "DEVELOPER") as suite:
            task = await suite.retry(refused.task.task_id)
            trace = await self._follow(suite, task)
        completed = self.claims.check(
            "the same task, allowed, was COMPLETED",
            trace.task.state == task_pb2.TASK_STATE_COMPLETED,
            _ending(trace.task),
        )
        if not completed:
            return None
        report = json.loads(trace.task.result_json)
        self.screen.line(report["headline"], style="bold")
        for line in report["lines"]:
            self.screen.line(f"  {line}")
        self.screen.command(f"trace {trace.task.task_id}", "# here without inputs and outputs")
        for line in trace_lines(trace, payloads=False):
            self.screen.line(line)
        return trace

    async def _follow(self, suite: Client, task: task_pb2.Task) -> Trace:
        """Show a task live from its submit until it ends."""
        self.screen.happened(clock_time(task.create_time), state_name(task))
        try:
            async with asyncio.timeout(_TASK_SECONDS):
                async for update in suite.watch(task.task_id, after_revision=task.revision):
                    self._show(update.event)
        except TimeoutError:
            raise SuiteError(
                f"Task {task.task_id} did not end within {_TASK_SECONDS:.0f} s.",
                f"See what the worker says in {self.data_dir / 'logs' / 'worker.log'}.",
            ) from None
        trace = await read_trace(suite, task.task_id)
        self.tasks.append(trace.task)
        return trace

    def _show(self, event: task_pb2.TaskEvent) -> None:
        time = clock_time(event.time)
        if not event.HasField("step"):
            self.screen.happened(time, f"{state_name(event)}  {event.error.error_class}".rstrip())
        elif event.step.status != task_pb2.STEP_STATUS_STARTED:
            self.screen.happened(time, f"  {event.step.name:<11}", status_name(event.step))

    def _explain_missing_refusal(self, trace: Trace) -> None:
        for step in trace.steps:
            if step.name == ALLOWED_LATER and step.status == task_pb2.STEP_STATUS_COMPLETED:
                self.screen.line(f"Another policy of this tenant allows {ALLOWED_LATER}; see which:")
                self.screen.command(f"why {step.call_id}")
                return
        self.screen.line(_ending(trace.task), style="red")

    async def _allow(self, suite: Client, tool: str) -> None:
        policy = policy_service_pb2.Policy(
            policy_id=policy_id_for(AGENT, tool, ""),
            cedar=policy_text(AGENT, tool, ""),
            description=f"{AGENT} may call {tool}",
        )
        await store_policy(suite, policy)

    async def _take_back(self, suite: Client) -> bool:
        """Delete the allow that an earlier demo left; whether there was one."""
        request = policy_service_pb2.DeletePolicyRequest(policy_id=policy_id_for(AGENT, ALLOWED_LATER, ""))
        try:
            await suite.call(suite.policies.DeletePolicy, request)
        except InterlockError as error:
            if error.reason != "POLICY_NOT_FOUND":
                raise
            return False
        return True


def _input(table: Table) -> str:
    text = json.dumps({"name": table.name, "csv": table.text}, ensure_ascii=False)
    if len(text.encode()) > _MAX_INPUT_BYTES:
        raise SuiteError(
            f"{table.name} is too large as a task's input: its quotes and line breaks grow in JSON.",
            "Give a shorter part of it.",
        )
    return text


def _plan(agent: AgentEntry) -> str:
    return " → ".join(step.tool for step in agent.spec.plan.steps)


def _ending(task: task_pb2.Task) -> str:
    return f"{state_name(task)} {task.error.error_class}: {task.error.message}".rstrip(" :")


def _as_seen_from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
