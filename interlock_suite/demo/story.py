"""The demo's acts, in order; each shows the commands that do the same."""

import json
from dataclasses import dataclass
from pathlib import Path

from interlock.cli.cedar import policy_id_for
from interlock.cli.connection import client
from interlock.cli.manifest import AgentEntry, read_manifest
from interlock.cli.publishing import publish
from interlock.cli.tracing import Trace, trace_lines
from interlock.cli.verdicts import verdict_lines
from interlock.client.client import Client
from interlock.client.errors import InterlockError
from interlock.gateway.v1 import policy_service_pb2, tool_call_pb2
from interlock.orchestrator.v1 import task_pb2
from interlock_suite.demo.proof import prove
from interlock_suite.demo.stage import Stage, as_seen_from_here, ending
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
class Story(Stage):
    """Tells one demo; `play` begins it, and `claims` says in the end what held."""

    table: Table

    async def play(self) -> None:
        """All acts. Raises InterlockError, CliError or SuiteError when one cannot go on at all."""
        await self.show_suite()
        await self._agent()
        refused = await self._refused_task()
        if refused is None:
            return
        completed = await self._allowed_task(refused)
        if completed is None:
            return
        traces = {"refused": refused, "completed": completed}
        await prove(self.data_dir, traces, self.screen, self.claims)

    async def _agent(self) -> None:
        """Act 2: an agent with three tools, and allows for two of them."""
        self.screen.act("An agent with three tools; nothing is allowed by default")
        manifest = examples() / MANIFEST
        self.screen.command(f"agents publish {as_seen_from_here(manifest)}")
        async with client(self.data_dir, "SUPER_ADMIN") as suite:
            described = read_manifest(manifest)
            published = [each async for each in publish(suite, described, with_agents=True, dry_run=False)]
        digest = published[-1]["digest"][:_DIGEST_CHARACTERS]
        self.screen.line(f"{AGENT} {published[-1]['version']} {digest}…, plan: {_plan(described.agents[0])}")
        async with client(self.data_dir, "ADMIN") as suite:
            for tool in ALLOWED_FIRST:
                await self.allow(suite, AGENT, tool)
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
            trace = await self.follow(suite, task)
        refused = [step for step in trace.steps if step.status == task_pb2.STEP_STATUS_REFUSED]
        reasons = [step.error.error_class for step in refused]
        was_refused = self.claims.check(
            f"{ALLOWED_LATER}, which nobody had allowed, was refused with POLICY_DENIED",
            reasons == ["POLICY_DENIED"] and refused[0].name == ALLOWED_LATER,
            ending(trace.task),
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
            await self.allow(suite, AGENT, ALLOWED_LATER)
        self.screen.command(f"retry {refused.task.task_id}")
        async with client(self.data_dir, "DEVELOPER") as suite:
            task = await suite.retry(refused.task.task_id)
            trace = await self.follow(suite, task)
        completed = self.claims.check(
            "the same task, allowed, was COMPLETED",
            trace.task.state == task_pb2.TASK_STATE_COMPLETED,
            ending(trace.task),
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

    def _explain_missing_refusal(self, trace: Trace) -> None:
        for step in trace.steps:
            if step.name == ALLOWED_LATER and step.status == task_pb2.STEP_STATUS_COMPLETED:
                self.screen.line(f"Another policy of this tenant allows {ALLOWED_LATER}; see which:")
                self.screen.command(f"why {step.call_id}")
                return
        self.screen.line(ending(trace.task), style="red")

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
