"""Agents and tools: list, get, publish; and which agent fits a task."""

from pathlib import Path

import click

from interlock.cli import display
from interlock.cli.escaping import one_line
from interlock.cli.session import output_option, run

_READ = ("VIEWER",)
_EDIT = ("SUPER_ADMIN",)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def agents() -> None:
    """Agents: list, get, find, publish."""


@click.group()
def tools() -> None:
    """Tools: list, get, publish."""


@agents.command("find")
@click.argument("capabilities", nargs=-1, required=True)
@click.option("--tool", "bound", multiple=True, help="A tool the agent must be bound to; may be repeated.")
@click.option("--rejected", is_flag=True, help="Also show who cannot, and why.")
@output_option
@click.pass_obj
def find_agents(
    data_dir: str, capabilities: tuple[str, ...], bound: tuple[str, ...], *, rejected: bool, as_json: bool
) -> None:
    """Rank the agents that have all CAPABILITIES, with reasons."""

    async def work() -> None:
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json
        from interlock.registry.v1 import registry_service_pb2 as messages

        request = messages.FindAgentsForTaskRequest(
            capabilities=capabilities, tools=bound, include_rejected=rejected
        )
        async with client(data_dir, *_READ) as suite:
            found = await suite.call(suite.agents.FindAgentsForTask, request)
        if as_json:
            display.emit_json(message_json(found))
            return
        for candidate in found.candidates:
            display.emit(f"{candidate.score:.2f}  {candidate.agent} {candidate.version}")
            for reason in candidate.reasons:
                display.emit(f"      {one_line(reason)}")
        for each in found.rejected:
            display.emit(f"  no  {each.agent}: {one_line('; '.join(each.reasons))}")
        if not found.candidates:
            display.emit("No agent can do that." + ("" if rejected else " Add --rejected to see why not."))

    run(work)


def _add_list(group: click.Group, kind: str) -> None:
    @group.command("list", help=f"List {kind}s by name.")
    @click.option("--filter", "wanted", default="", help='A filter, for example: status = "ACTIVE"')
    @output_option
    @click.pass_obj
    def list_all(data_dir: str, wanted: str, *, as_json: bool) -> None:
        async def work() -> None:
            from interlock.cli import publishing
            from interlock.cli.connection import client
            from interlock.cli.message_json import message_json

            async with client(data_dir, *_READ) as suite:
                found = await publishing.list_all(suite, kind, wanted)
            if as_json:
                display.emit_json([message_json(each) for each in found])
            else:
                display.emit_table(*publishing.table(kind, found))

        run(work)


def _add_get(group: click.Group, kind: str) -> None:
    @group.command("get", help=f"Show a published version of one {kind}.")
    @click.argument("name")
    @click.option("--version", default="", help="A version instead of the newest.")
    @output_option
    @click.pass_obj
    def get(data_dir: str, name: str, version: str, *, as_json: bool) -> None:
        async def work() -> None:
            import json

            from interlock.cli.connection import client
            from interlock.cli.message_json import message_json
            from interlock.cli.publishing import get_version

            async with client(data_dir, *_READ) as suite:
                shown = message_json(await get_version(suite, kind, name, version))
            if as_json:
                display.emit_json(shown)
            else:
                display.emit(json.dumps(shown, indent=2, ensure_ascii=False))

        run(work)


def _add_publish(group: click.Group, kind: str) -> None:
    what = "tools and agents" if kind == "agent" else "tools"

    @group.command(
        "publish",
        help=f"Publish the {what} of a MANIFEST (TOML); a version that is published already, with the same"
        " content, stays as it is.",
    )
    @click.argument("manifest", type=_FILE)
    @click.option("--dry-run", is_flag=True, help="Check everything, store nothing.")
    @output_option
    @click.pass_obj
    def publish(data_dir: str, manifest: Path, *, dry_run: bool, as_json: bool) -> None:
        async def work() -> None:
            from interlock.cli import publishing
            from interlock.cli.connection import client
            from interlock.cli.manifest import read_manifest

            described = read_manifest(manifest)
            published = []
            async with client(data_dir, *_EDIT) as suite:
                async for each in publishing.publish(
                    suite, described, with_agents=kind == "agent", dry_run=dry_run
                ):
                    published.append(each)
                    if not as_json:
                        for line in publishing.published_lines(each):
                            display.emit(line)
            if as_json:
                display.emit_json(published)

        run(work)


for _group, _kind in ((agents, "agent"), (tools, "tool")):
    _add_list(_group, _kind)
    _add_get(_group, _kind)
    _add_publish(_group, _kind)
