"""A ClickHouse server for tests: its HTTP interface over the engine itself (chdb), with faults on demand.

    python -m tests.support.clickhouse_server DIRECTORY PORT USER PASSWORD [CERTIFICATE KEY]

prints the port once it answers. A fault affects the next insert or change only. `POST /fault/lost` makes the change but
closes the connection without an answer. `/fault/late` closes the connection and makes the change half a second later.
`/fault/busy` answers 503 and changes nothing.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import re
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

import chdb
import lz4.frame
import pyarrow as pa
from aiohttp import web

_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_READING = re.compile(r"\s*\(?(SELECT|WITH|SHOW|DESCRIBE|EXISTS|EXPLAIN)\b", re.IGNORECASE)
# Parameters of a request that are not settings of the engine.
_TRANSPORT = {"query", "database", "query_id", "wait_end_of_query", "enable_http_compression", "compress", "decompress",
              "send_progress_in_http_headers", "http_headers_progress_interval_ms", "client_protocol_version",
              "session_id", "session_timeout", "session_check", "buffer_size", "quota_key", "role"}  # fmt: skip


class Server:
    """The part of ClickHouse's HTTP interface that clickhouse-connect uses."""

    def __init__(self, path: str, user: str, password: str) -> None:
        self._path = path
        self._held = chdb.connect(path)  # Keeps the engine open between requests.
        self._authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._faults: list[str] = []
        self._running: list[str] = []
        self._late: set[asyncio.Future[Any]] = set()

    async def fault(self, request: web.Request) -> web.Response:
        """Queue a fault for the next change."""
        self._faults.append(request.match_info["kind"])
        return web.Response()

    async def ping(self, _: web.Request) -> web.Response:
        """Answer a health check."""
        return web.Response(text="Ok.\n")

    async def query(self, request: web.Request) -> web.StreamResponse:
        """Run one statement, or apply the next queued fault if the statement changes something."""
        if request.headers.get("Authorization") != self._authorization:
            return _failure(516, "Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)")
        body = _decompressed(await request.read(), request.headers.get("Content-Encoding", ""))
        parameters = dict(request.query)
        sql = parameters.get("query", "").encode()
        sql, data = (sql, body) if sql else (body, b"")
        reading = _READING.match(sql.decode(errors="replace")) is not None
        if not reading and self._faults:
            kind = self._faults.pop(0)
            if kind == "busy":
                return web.Response(status=503, text="busy")
            if kind == "lost":
                await asyncio.to_thread(self._do, sql, data, parameters)
            elif kind == "late":
                task = asyncio.ensure_future(self._later(sql, data, parameters))
                self._late.add(task)
                task.add_done_callback(self._late.discard)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        try:
            answer = await asyncio.to_thread(self._do, sql, data, parameters)
        except Exception as failure:
            text = str(failure)
            code = re.search(r"Code: (\d+)", text)
            return _failure(int(code[1]) if code else 1002, text)
        return web.Response(body=answer, headers={"X-ClickHouse-Summary": json.dumps({"written_rows": "0"})})

    async def _later(self, sql: bytes, data: bytes, parameters: dict[str, str]) -> None:
        self._running.append(parameters["query_id"])
        await asyncio.sleep(0.5)
        await asyncio.to_thread(self._do, sql, data, parameters)
        self._running.remove(parameters["query_id"])

    def _do(self, sql: bytes, data: bytes, parameters: dict[str, str]) -> bytes:
        handle = chdb.connect(self._path)  # A separate session for each statement.
        try:
            if "database" in parameters:
                handle.query(f"USE `{parameters['database']}`")
            for name, value in parameters.items():
                if name not in _TRANSPORT and not name.startswith("param_"):
                    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
                    handle.query(f"SET {name} = '{quoted}'")
            bound = {name[6:]: value for name, value in parameters.items() if name.startswith("param_")}
            # Only one newline separates the statement from its data, because a block of data may begin with a tab.
            head, _, rest = (
                sql.partition(b"\n") if b"\n" in sql and not _FORMAT.search(sql) and data else (sql, b"", b"")
            )
            found = _FORMAT.search(head)
            if head.lstrip()[:6].upper() == b"INSERT" and found and (data or rest):
                return self._insert(handle, head, found, rest + data)
            format_ = found[1].decode() if found else "TabSeparated"
            text = (sql[: found.start()] if found else sql).decode()
            # The engine assigns its own query ids, so the ids of `late` statements are substituted here.
            running = ", ".join(f"'{one}'" for one in self._running)
            text = text.replace(
                "system.processes", f"(SELECT arrayJoin(CAST([{running}], 'Array(String)')) AS query_id)"
            )
            return bytes(handle.query(text, format_, params=bound).bytes())
        finally:
            handle.close()

    def _insert(self, handle: Any, head: bytes, found: re.Match[bytes], data: bytes) -> bytes:
        with tempfile.NamedTemporaryFile(suffix=".data") as file:
            file.write(data)
            file.flush()
            into = head[: found.start()].decode()
            handle.query(f"{into} FROM INFILE '{file.name}' COMPRESSION 'none' FORMAT {found[1].decode()}")
        return b""


def _decompressed(body: bytes, encoding: str) -> bytes:
    if encoding == "lz4":
        return bytes(lz4.frame.open(io.BytesIO(body)).read())  # A body may have several frames.
    if encoding == "zstd":
        return bytes(pa.CompressedInputStream(pa.BufferReader(body), "zstd").read())
    return gzip.decompress(body) if encoding == "gzip" else body


def _failure(code: int, text: str) -> web.Response:
    return web.Response(status=500, text=text, headers={"X-ClickHouse-Exception-Code": str(code)})


async def _serve(path: str, port: int, user: str, password: str, tls: list[str]) -> None:
    server = Server(path, user, password)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/fault/{kind}", server.fault)
    app.router.add_get("/ping", server.ping)
    app.router.add_route("*", "/", server.query)
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=context)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)  # Run until the test closes standard input.
    await runner.cleanup()


if __name__ == "__main__":
    directory, port_text, name, word, *files = sys.argv[1:]
    Path(directory).mkdir(parents=True, exist_ok=True)
    asyncio.run(_serve(directory, int(port_text), name, word, files))
