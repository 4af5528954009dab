"""How long the audit log keeps entries and contents: show, set, lock, and see beforehand what would go."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import click

from interlock.cli import display
from interlock.cli.problems import CliError
from interlock.cli.session import output_option, run

if TYPE_CHECKING:
    from interlock.audit.v1 import retention_service_pb2 as messages
    from interlock.client import Client

_CLASSES = ("CONTENT", "ERROR", "DECISION", "STATE", "ACCESS")
_PREFIX = "RETENTION_CLASS_"
_READ = ("AUDITOR",)
_WRITE = ("ADMIN",)

_classes = click.option(
    "--class",
    "classes",
    type=click.Choice(_CLASSES, case_sensitive=False),
    multiple=True,
    help="Of these entries; may be given several times.  [default: all]",
)
_min_days = click.option("--min-days", type=click.IntRange(min=0), help="Nobody removes them before.")
_max_days = click.option("--max-days", type=click.IntRange(min=0), help="Removed after; 0 = never.")
_entry_max_days = click.option(
    "--entry-max-days",
    type=click.IntRange(min=0),
    help="Whole entries removed after, 184 at least; their hashes stay; 0 = never.",
)


class _Days(NamedTuple):
    """What a rule is to say, under the names that it has there."""

    payload_min_days: int | None = None
    payload_max_days: int | None = None
    entry_max_days: int | None = None


@click.group()
def retention() -> None:
    """How long entries and their contents are kept, by class of entries. Proofs hold for ever."""


@retention.command()
@output_option
@click.pass_obj
def show(data_dir: str, *, as_json: bool) -> None:
    """Show what holds for every class."""

    async def work() -> None:
        from interlock.cli.connection import client

        async with client(data_dir, *_READ) as suite:
            _show_rules(await _rules(suite), as_json=as_json)

    run(work)


@retention.command()
@output_option
@click.pass_obj
def presets(data_dir: str, *, as_json: bool) -> None:
    """List the policies that have a name."""

    async def work() -> None:
        from interlock.audit.v1 import retention_service_pb2 as messages
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json

        async with client(data_dir, *_READ) as suite:
            request = messages.ListRetentionPresetsRequest()
            found = (await suite.call(suite.retention.ListRetentionPresets, request)).presets
        if as_json:
            display.emit_json([message_json(each) for each in found])
        else:
            display.emit_table(("PRESET", "FOR"), [(each.name, each.description) for each in found])

    run(work)


@retention.command("set")
@_classes
@_min_days
@_max_days
@_entry_max_days
@click.option(
    "--preset", default="", help="All rules of this name, instead: interlock audit retention presets"
)
@output_option
@click.pass_obj
def set_policy(
    data_dir: str,
    classes: tuple[str, ...],
    min_days: int | None,
    max_days: int | None,
    entry_max_days: int | None,
    preset: str,
    *,
    as_json: bool,
) -> None:
    """Set how long entries and contents are kept; what is not given stays as it is."""
    days = _Days(min_days, max_days, entry_max_days)
    if bool(preset) == any(each is not None for each in days):
        raise CliError("Nothing to set, or two things.", "Give --min-days and --max-days, or --preset.")

    async def work() -> None:
        from interlock.audit.v1 import retention_service_pb2 as messages
        from interlock.cli.connection import client

        async with client(data_dir, *_WRITE) as suite:
            request = messages.SetRetentionPolicyRequest(preset=preset)
            if not preset:
                request.rules.extend(_changed(await _rules(suite), classes, days))
            answer = await suite.call(suite.retention.SetRetentionPolicy, request)
        _show_rules(answer.rules, as_json=as_json)

    run(work)


@retention.command()
@_classes
@click.confirmation_option(prompt="A lock is never taken back. Lock?")
@output_option
@click.pass_obj
def lock(data_dir: str, classes: tuple[str, ...], *, as_json: bool) -> None:
    """Lock what holds: from now on it can only be lengthened."""

    async def work() -> None:
        from interlock.audit.v1 import retention_service_pb2 as messages
        from interlock.cli.connection import client

        async with client(data_dir, *_WRITE) as suite:
            rules = _changed(await _rules(suite), classes, _Days())
            for rule in rules:
                rule.locked = True
            request = messages.SetRetentionPolicyRequest(rules=rules)
            answer = await suite.call(suite.retention.SetRetentionPolicy, request)
        _show_rules(answer.rules, as_json=as_json)

    run(work)


@retention.command()
@_classes
@_min_days
@_max_days
@_entry_max_days
@output_option
@click.pass_obj
def preview(
    data_dir: str,
    classes: tuple[str, ...],
    min_days: int | None,
    max_days: int | None,
    entry_max_days: int | None,
    *,
    as_json: bool,
) -> None:
    """Count what the next sweep would remove, by what holds or by what the options say instead."""

    async def work() -> None:
        from interlock.audit.v1 import retention_service_pb2 as messages
        from interlock.cli.connection import client
        from interlock.cli.message_json import message_json

        async with client(data_dir, *_READ) as suite:
            rules = _changed(await _rules(suite), classes, _Days(min_days, max_days, entry_max_days))
            request = messages.PreviewRetentionRequest(rules=rules)
            told = await suite.call(suite.retention.PreviewRetention, request)
        if as_json:
            display.emit_json(message_json(told))
            return
        rows = [
            (
                _name(each),
                f"{each.due_parts:,}",
                f"{each.held_parts:,}",
                f"{each.minimum_parts:,}",
                f"{each.due_entries:,}",
                f"{each.kept_entries:,}",
                display.short_time(each.oldest_time) if each.HasField("oldest_time") else "",
            )
            for each in told.classes
        ]
        head = (
            "CLASS",
            "CONTENTS WOULD GO",
            "HELD",
            "WITHIN MINIMUM",
            "ENTRIES WOULD GO",
            "KEPT",
            "OLDEST CONTENT",
        )
        display.emit_table(head, rows)
        if not told.complete:
            display.emit("There are more: only the oldest were looked at.")

    run(work)


async def _rules(suite: "Client") -> "list[messages.RetentionRule]":
    from interlock.audit.v1 import retention_service_pb2 as messages

    request = messages.GetRetentionPolicyRequest()
    return list((await suite.call(suite.retention.GetRetentionPolicy, request)).rules)


def _changed(
    rules: "Iterable[messages.RetentionRule]",
    classes: tuple[str, ...],
    days: _Days,
) -> "list[messages.RetentionRule]":
    """The rules of the classes, with what is given in the place of what they say."""
    wanted = [rule for rule in rules if not classes or _name(rule) in classes]
    for rule in wanted:
        for name, count in days._asdict().items():
            if count is not None:
                setattr(rule, name, count)
    return wanted


def _show_rules(rules: "Iterable[messages.RetentionRule]", *, as_json: bool) -> None:
    from interlock.cli.message_json import message_json

    if as_json:
        display.emit_json([message_json(each) for each in rules])
        return
    rows = [
        (
            _name(each),
            f"{each.payload_min_days:,} days" if each.payload_min_days else "none",
            f"{each.payload_max_days:,} days" if each.payload_max_days else "for ever",
            f"{each.entry_max_days:,} days" if each.entry_max_days else "for ever",
            "locked" if each.locked else "",
        )
        for each in rules
    ]
    display.emit_table(("CLASS", "AT LEAST", "CONTENTS AT MOST", "ENTRIES AT MOST", ""), rows)


def _name(each: "messages.RetentionRule | messages.ClassPreview") -> str:
    from interlock.audit.v1 import retention_service_pb2 as messages

    return messages.RetentionClass.Name(getattr(each, "class")).removeprefix(_PREFIX)
