"""Large JSON documents: store one, read one."""

from pathlib import Path

import click

from interlock.cli import display
from interlock.cli.session import output_option, run

_READ = ("VIEWER",)
_WRITE = ("DEVELOPER",)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def blobs() -> None:
    """Inputs and results over 256 KiB: put, get. Submit and get use them by themselves."""


@blobs.command("put")
@click.argument("file", type=_FILE)
@output_option
@click.pass_obj
def put(data_dir: str, file: Path, *, as_json: bool) -> None:
    """Store the JSON document in FILE; prints the digest that names it. Unused, it is kept for an hour."""
    document = file.read_bytes()

    async def work() -> str:
        from interlock.cli.connection import client

        async with client(data_dir, *_WRITE) as suite:
            return await suite.put_blob(document)

    digest = run(work)
    if as_json:
        display.emit_json({"digest": digest})
    else:
        display.emit(digest)


@blobs.command("get")
@click.argument("digest")
@click.pass_obj
def get(data_dir: str, digest: str) -> None:
    """Print the document that DIGEST names, checked against it."""

    async def work() -> str:
        from interlock.cli.connection import client

        async with client(data_dir, *_READ) as suite:
            return await suite.get_blob(digest)

    click.echo(run(work))
