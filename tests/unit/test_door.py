"""Connections that bring no request are closed, and no more are held than the process has room for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from pipeline.streaming.worker.door import Door, most_connections


@asynccontextmanager
async def open_door(most: int, patience_s: float, answer_s: float = 0.0) -> AsyncIterator[tuple[Door, int]]:
    """A door in front of an application that takes `answer_s` to answer; with its port."""
    doors: list[Door] = []

    @web.middleware
    async def noting(request: web.Request, handler: web.Handler) -> web.StreamResponse:
        transport = request.transport
        doors[0].began(transport)
        try:
            return await handler(request)
        finally:
            doors[0].ended(transport)

    async def answer(_: web.Request) -> web.Response:
        await asyncio.sleep(answer_s)
        return web.Response(text="here")

    application = web.Application(middlewares=[noting])
    application.router.add_get("/", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    assert runner.server is not None
    doors.append(Door(runner.server, most, patience_s))
    server = await asyncio.get_running_loop().create_server(doors[0], "127.0.0.1", 0)
    try:
        yield doors[0], server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await runner.cleanup()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What the server sends until it closes the connection."""
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def gone(writer: asyncio.StreamWriter) -> None:
    """Wait until a connection is closed on this side."""
    with suppress(ConnectionError):
        await writer.wait_closed()


def test_half_a_request_is_cut_off() -> None:
    """Nothing, and the begin of a request, are closed after the patience; a whole one is answered, however slowly."""

    async def main() -> None:
        async with open_door(8, 0.3, answer_s=0.9) as (door, port):
            silent, half, whole = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            half[1].write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            whole[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (b"", b"") == (await ended(silent[0]), await ended(half[0]))
            said = await ended(whole[0])  # kept alive after its answer, then closed as well
            assert said.startswith(b"HTTP/1.1 200 OK")
            assert said.endswith(b"here")
            for _, writer in (silent, half, whole):
                writer.close()
                await gone(writer)
            while door.visits:
                await asyncio.sleep(0.01)

    asyncio.run(main())


def test_one_connection_too_many_is_closed_at_once() -> None:
    """Those that are there are served, and there is room again once one has gone."""

    async def main() -> None:
        async with open_door(2, 30) as (door, port):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            while len(door.visits) < 2:
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await ended(reader) == b""
            writer.close()
            await gone(writer)
            held[0][1].write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await ended(held[0][0])).endswith(b"here")
            while len(door.visits) > 1:
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await ended(reader)).endswith(b"here")
            for one in (writer, *(writer for _, writer in held)):
                one.close()
                await gone(one)

    asyncio.run(main())


def test_the_door_leaves_files_for_the_history() -> None:
    """It takes a quarter of what the process may open."""
    assert 8 <= most_connections() <= 512
