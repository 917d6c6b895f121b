"""HTTP API of a worker: liveness, readiness, metrics, and live state of cards and pools (Q7).

    GET /health   /ready   /metrics   /cards/{iccid}   /pools/{id}

Any worker can be asked for state: it forwards the request, with the caller's token, to the worker that folds the
partition. A request is forwarded once at most. The bearer tokens in [worker].tokens say who may see what. A token of an
account shows the cards and pools of that account and of the accounts below it. For all others the answer is 404, so it
does not reveal whether they exist.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from yarl import URL

from pipeline.config import read_secret
from pipeline.config.worker import EVERY_ACCOUNT, Token, Worker
from pipeline.streaming.commands.catalogue_log import Registry
from pipeline.streaming.rate.stage import Rate
from pipeline.streaming.worker.door import Door
from pipeline.streaming.worker.live import card_now, pool_now
from pipeline.streaming.worker.metrics import Metrics
from rating.engine import Engine
from rating.errors import ConfigError, WorldError

FORWARDED: Final = "Weir-Forwarded"  # header of a request that another worker has forwarded
_AHEAD_S: Final = 10.0  # how long a request waits for the fold, and for the worker it is forwarded to
_CONNECT_S: Final = 2.0
_RETRY_AFTER_S: Final = 2
_HANDED_BACK: Final = ("Retry-After", "WWW-Authenticate")
_LONGEST_ID: Final = 128
_STOP_S: Final = 2.0

_log = logging.getLogger(__name__)


class Serving(Protocol):
    """The worker, as far as the HTTP API needs it."""

    metrics: Metrics

    def rate(self, partition: int) -> Rate | None:
        """Return the rate stage of a partition, or None if this worker does not run it."""
        ...

    def owner_of(self, partition: int) -> str | None:
        """Return the URL of the worker that owns the partition, or None if it is unassigned."""
        ...

    def waits_for(self) -> list[str]:
        """Return the reasons why the worker is not ready; empty if it is ready."""
        ...

    def measure(self) -> None:
        """Update the gauges that are only computed when metrics are scraped."""

    @property
    def registry(self) -> Registry:
        """The command log, which maps cards and pools to partitions."""
        ...


@dataclass(frozen=True)
class Bearer:
    """A token, and the accounts that its bearer may see."""

    token: bytes
    accounts: tuple[str, ...]


def bearers(tokens: Sequence[Token]) -> tuple[Bearer, ...]:
    """Read the secrets of the configured tokens. Raises ConfigError if one is missing or is not a valid token."""
    found = []
    for at, token in enumerate(tokens):
        of = f"[worker].tokens[{at}]"
        secret = read_secret(token.token_env, token.token_file, of)
        assert secret is not None  # load_config checks this
        if not secret.isascii() or any(character.isspace() for character in secret):
            raise ConfigError(f"{of}: found a token with spaces or signs beyond ASCII; expected letters and digits")
        accounts = (token.accounts,) if isinstance(token.accounts, str) else token.accounts
        found.append(Bearer(secret.encode(), accounts))
    return tuple(found)


def own_url(worker: Worker) -> str:
    """Return the URL at which other workers reach this one."""
    host = f"[{worker.web_host}]" if ":" in worker.web_host else worker.web_host
    return worker.advertised_url or f"http://{host}:{worker.web_port}"


@asynccontextmanager
async def serving(worker: Serving, config: Worker) -> AsyncIterator[None]:
    """Answer HTTP requests while the body runs.

    Raises ConfigError if a token is missing or invalid, WorldError if the port is in use.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            ClientSession(timeout=ClientTimeout(_AHEAD_S, connect=_CONNECT_S), auto_decompress=False)
        )
        desk = Desk(worker, bearers(config.tokens), own_url(config), session)
        runner = web.AppRunner(desk.application(), access_log=None, shutdown_timeout=_STOP_S)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        assert runner.server is not None
        desk.door = Door(runner.server)
        try:
            loop = asyncio.get_running_loop()
            listening = await loop.create_server(desk.door, config.web_host, config.web_port)
        except OSError as error:
            raise _not_listening(config, error) from error
        stack.callback(listening.close)
        yield


def _not_listening(config: Worker, error: OSError) -> WorldError:
    place = f"{config.web_host}:{config.web_port}"
    if error.errno == errno.EADDRINUSE:
        return WorldError(f"{place}: another process listens there; stop it, or choose another port with --web-port")
    what = error.strerror or str(error)
    return WorldError(f"{place}: cannot listen there ({what}); change web_host and web_port in [worker]")


class Desk:
    """The request handlers of one worker, which other workers reach at `url`."""

    def __init__(self, worker: Serving, known: Sequence[Bearer], url: str, session: ClientSession) -> None:
        self._worker = worker
        self._bearers = known
        self._url = URL(url)
        self._session = session
        self.door: Door | None = None  # in front of the application, if it serves a port

    def application(self) -> web.Application:
        """Return the aiohttp application with all routes."""
        application = web.Application(middlewares=[self._counted])
        routes: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._metrics,
            "/cards/{id}": self._card,
            "/pools/{id}": self._pool,
        }
        for path, handler in routes.items():
            application.router.add_get(path, handler)
        return application

    @web.middleware
    async def _counted(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Count requests by route and status. Unexpected errors are logged without the headers of the request."""
        started, transport = time.monotonic(), request.transport
        if self.door is not None:
            self.door.began(transport)
        try:
            response = await handler(request)
        except web.HTTPException as refused:
            response = _problem(refused.status, refused.reason)
            response.headers.update({name: refused.headers[name] for name in ("Allow",) if name in refused.headers})
        except Exception:
            _log.exception("an answer failed")
            response = _problem(500, "internal error; see the log of the worker")
        finally:
            if self.door is not None:
                self.door.ended(transport)
        resource = request.match_info.route.resource
        path = "other" if resource is None else resource.canonical
        self._worker.metrics.answered(path, response.status, time.monotonic() - started)
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _health(self, _: web.Request) -> web.Response:
        return _json({"status": "alive"})

    async def _ready(self, _: web.Request) -> web.Response:
        reasons = self._worker.waits_for()
        return _json({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def _metrics(self, _: web.Request) -> web.Response:
        self._worker.measure()
        body = generate_latest(self._worker.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _card(self, request: web.Request) -> web.Response:
        def place(name: str) -> tuple[int | None, str | None]:
            registry = self._worker.registry
            return registry.partition_of(name), registry.account_of(name)

        return await self._state(request, place, card_now, "card")

    async def _pool(self, request: web.Request) -> web.Response:
        def place(name: str) -> tuple[int | None, str | None]:
            registry = self._worker.registry
            return registry.partition_of_pool(name), registry.account_of_pool(name)

        return await self._state(request, place, pool_now, "pool")

    async def _state(
        self,
        request: web.Request,
        place_of: Callable[[str], tuple[int | None, str | None]],
        now: Callable[[Engine, str, Sequence[str]], dict[str, Any] | None],
        what: str,
    ) -> web.Response:
        """Answer with the state that `now` returns, here or from the worker that owns the partition.

        `place_of` returns partition and account, each None if it is not known. Before anything tells whether the card
        or pool exists, it is looked up whether the token may see its account.
        """
        bearer = self._bearer(request)
        if isinstance(bearer, web.Response):
            return bearer
        name = request.match_info["id"]
        missing = _problem(404, f"no {what} {name[:_LONGEST_ID]!r} that this token may see")
        if len(name) > _LONGEST_ID:
            return missing
        partition, account = await asyncio.to_thread(place_of, name)
        sees_all = EVERY_ACCOUNT in bearer.accounts
        if partition is None or not (sees_all or account is None or await self._sees(bearer, account)):
            return missing
        rate = self._worker.rate(partition)
        if rate is None or not rate.ready.is_set():
            return missing if account is None and not sees_all else await self._handed_on(request, partition)
        try:
            found = await _look(rate, lambda engine: now(engine, name, bearer.accounts))
        except TimeoutError:
            return _later(f"partition {partition} is busy")
        if found is None:
            return missing
        return _json(found)

    async def _sees(self, bearer: Bearer, account: str) -> bool:
        return await asyncio.to_thread(lambda: self._worker.registry.is_within(account, bearer.accounts))

    def _bearer(self, request: web.Request) -> Bearer | web.Response:
        """Return a bearer with all accounts of the request's token, or the response that rejects the request."""
        if not self._bearers:
            return _unauthorised(
                "live state is not shown without tokens: name them in [worker].tokens of the workers' configuration, "
                'each with token_env or token_file and the accounts that it may see ("*" for all)'
            )
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        token = given.strip().encode(errors="surrogateescape")
        # Compare with all tokens, each in constant time, so that the duration reveals nothing.
        matching = [one for one in self._bearers if hmac.compare_digest(one.token, token)]
        if kind.lower() != "bearer" or not matching:
            return _unauthorised("send a token that this worker knows: Authorization: Bearer TOKEN")
        return Bearer(b"", tuple(account for one in matching for account in one.accounts))

    async def _handed_on(self, request: web.Request, partition: int) -> web.Response:
        """Forward the request to the owner of the partition.

        A forwarded request is not forwarded again, so there are no loops.
        """
        owner = self._worker.owner_of(partition)
        restoring = f"nobody has partition {partition} at the moment; a worker is taking it over"
        if owner is None or URL(owner) == self._url or FORWARDED in request.headers:
            return _later(restoring)
        headers = {"Authorization": request.headers["Authorization"], FORWARDED: "1"}
        try:
            target = URL(owner.rstrip("/") + request.rel_url.raw_path, encoded=True)
            async with self._session.get(target, headers=headers, allow_redirects=False) as answer:
                body = await answer.read()
                kept = {name: answer.headers[name] for name in _HANDED_BACK if name in answer.headers}
                return web.Response(body=body, status=answer.status, content_type=answer.content_type, headers=kept)
        except (ClientError, OSError, TimeoutError) as error:
            _log.warning(
                "partition %d: its worker at %s does not answer (%s); is its advertised_url right?",
                partition,
                owner,
                type(error).__name__,
                extra={"partition": partition},
            )
            return _later(restoring)


async def _look(rate: Rate, ask: Callable[[Engine], dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the result of `ask` between two steps of the fold. Raises TimeoutError if the fold stays busy too long."""
    async with asyncio.timeout(_AHEAD_S):
        await rate.lock.acquire()
    try:
        fold = rate.fold
        assert fold is not None  # the stage is ready
        found = await asyncio.to_thread(ask, fold.engine)
        place = {"journal_partition": rate.partition, "journal_offset": fold.applied}
        return None if found is None else found | place
    finally:
        rate.lock.release()


def _json(document: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(document), status=status, content_type="application/json", headers=headers
    )


def _problem(status: int, said: str) -> web.Response:
    return _json({"error": said}, status)


def _unauthorised(said: str) -> web.Response:
    return _json({"error": said}, 401, {"WWW-Authenticate": "Bearer"})


def _later(said: str) -> web.Response:
    return _json({"error": f"{said}; try again soon"}, 503, {"Retry-After": str(_RETRY_AFTER_S)})


def waits(begun: bool, rebalancing: bool, stages: Mapping[str, object | None], folded: int, commands: int) -> list[str]:
    """Return the reasons why a worker is not ready; empty if it is ready.

    `stages` maps each assigned partition to its stage, or to None if the stage does not run yet. `folded` is the number
    of messages of the command log that have been folded; at the start of the worker the log had `commands` messages.
    """
    reasons = []
    if not begun:
        reasons.append("has not been given partitions yet")
    elif rebalancing:
        reasons.append("partitions are being reassigned")
    if folded < commands:
        reasons.append(f"commands are folded up to {folded} of {commands}")
    for name, stage in stages.items():
        waits_for = getattr(stage, "waits_for", None)
        waiting = getattr(stage, "waiting", None)
        ready = getattr(stage, "ready", None)
        if stage is None or (ready is not None and not ready.is_set()):
            reasons.append(f"{name} is being restored")
        elif waits_for is not None:
            reasons.append(f"{name} does not land: {waits_for}")
        if waiting is not None and waiting.problem is not None:
            reasons.append(f"{name} has waited for {waiting.seconds:.0f} s: it {waiting.problem}")
    return reasons
