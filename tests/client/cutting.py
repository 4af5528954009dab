"""A proxy between a client and a server that cuts connections after a random number of bytes."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Cutter:
    """Forwards TCP; tears each connection off after some bytes from the server, until `cuts` are made."""

    def __init__(self, target: str, *, seed: int, cuts: int, most_bytes: int) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._random = random.Random(seed)
        self._most_bytes = most_bytes
        self.left = cuts
        self.address = ""
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Cutter"]:
        """Listens at `address` while the block lasts."""
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        up = asyncio.create_task(_pump(reader, far_writer))
        try:
            room = self._random.randrange(100, self._most_bytes)
            while data := await far_reader.read(4096):
                if self.left and len(data) >= room:
                    self.left -= 1
                    # What was sent up to here may end in the middle of a message.
                    writer.write(data[:room])
                    await writer.drain()
                    return
                room -= len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the client has gone
        finally:
            up.cancel()
            for each in (writer, far_writer):
                each.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
