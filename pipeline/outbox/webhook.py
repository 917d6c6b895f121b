"""Delivery of messages to a URL: signed, without redirects, and only to addresses that were checked."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx
import msgspec

from pipeline.catalogue.addresses import url_problem
from pipeline.config import WebhookDestination, read_secret
from pipeline.outbox.address import Destination, RefusedError, networks, resolve
from pipeline.outbox.deadline import Deadline
from pipeline.outbox.sent import Sent
from pipeline.outbox.signature import keys, message_id, sign
from rating.errors import ConfigError

_AGAIN: Final = frozenset({408, 425, 429})  # the only 4xx statuses that ask for a repeat
_MOST_READ_BYTES: Final = 64 << 10
_LONGEST_WAIT_S: Final = 86_400.0  # longest wait that a receiver can request
_SHOWN_CHARACTERS: Final = 200
_MOST_CONNECTIONS: Final = 8  # of a thread, each to another host; the one used longest ago is closed


class _Address(msgspec.Struct):
    url: str | None = None


class _Asked(msgspec.Struct):
    parameters: _Address


@dataclass
class _Connection:
    """A client with at most one connection, to one host, and the socket of that connection."""

    client: httpx.Client
    socket: socket.socket | None = None

    def trace(self, event: str, facts: dict[str, Any]) -> None:
        """Take the socket of a connection that the client has opened."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self.socket = facts["return_value"].get_extra_info("socket")


class WebhookSender:
    """Posts messages to one destination. Each thread has its own connections, for the hosts that it used last."""

    def __init__(self, hook: WebhookDestination) -> None:
        """Prepare the destination. Raises ConfigError if the secret or the certificates cannot be read."""
        self._hook = hook
        of = f"webhook {hook.name}"
        self._keys = keys(read_secret(hook.secret_env, hook.secret_file, of) or "", of)
        self._networks = networks(hook.allow)
        try:
            context = ssl.create_default_context(cafile=hook.ca_file)
        except OSError as error:
            raise ConfigError(f"{of}: ca_file: found {hook.ca_file}, which cannot be read: {error}") from error
        self._context = context
        self._local = threading.local()
        self._clients: set[httpx.Client] = set()
        self._guard = threading.Lock()

    def send(self, action_id: str, body: bytes) -> Sent:
        """Post the message to the URL of the destination or, if it has none, to the URL that the action names."""
        url = self._hook.url or msgspec.json.decode(body, type=_Asked).parameters.url
        if url is None:
            return Sent("dead", f"the action names no url, and webhook {self._hook.name} has none")
        if wrong := url_problem(url):
            return Sent("dead", f"found url {url!r}; expected {wrong}")
        try:
            target = httpx.URL(url)
            port = target.port or (443 if target.scheme == "https" else 80)
            found = resolve(target.host, port, self._networks)
        except RefusedError as refused:
            return Sent("dead", str(refused))
        except (httpx.InvalidURL, UnicodeError) as error:
            return Sent("dead", f"found url {url!r}: {error}")
        except OSError as error:
            return Sent("again", f"{url}: the name cannot be resolved: {error}")
        if target.scheme == "http" and not found.allowed:
            return Sent("dead", f"{url}: found http; expected https, but to addresses in `allow` of the destination")
        return self._posted(target, found, action_id, body)

    def close(self) -> None:
        """Close all connections."""
        with self._guard:
            for client in self._clients:
                client.close()
            self._clients.clear()

    def _posted(self, target: httpx.URL, found: Destination, action_id: str, body: bytes) -> Sent:
        name, now_s = message_id(action_id), int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": "weir",
            "host": target.netloc.decode("ascii"),
            "webhook-id": name,
            "webhook-timestamp": str(now_s),
            "webhook-signature": sign(self._keys, name, now_s, body),
        }
        failed: Sent | None = None
        connection = self._connection(target.host)
        with Deadline(self._hook.timeout_s, lambda: connection.socket) as deadline:
            for address in found.addresses:
                # Connect to the checked address, whatever the name resolves to now. TLS still verifies the name.
                request = connection.client.build_request(
                    "POST",
                    target.copy_with(host=str(address)),
                    content=body,
                    headers=headers,
                    timeout=self._hook.timeout_s,
                    extensions={"sni_hostname": target.raw_host.decode("ascii"), "trace": connection.trace},
                )
                try:
                    return self._answered(connection.client, request)
                except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                    failed = Sent("again", f"{target}: cannot connect to {address}: {error or type(error).__name__}")
                    if deadline.passed:
                        return failed
                except httpx.TransportError as error:
                    said = f"no answer within {self._hook.timeout_s} s, or a broken one: {error}"
                    return Sent("again", f"{target}: {said}")
        return failed or Sent("again", f"{target}: the name has no address")

    def _answered(self, client: httpx.Client, request: httpx.Request) -> Sent:
        response = client.send(request, stream=True)
        try:
            read = b""
            # Only a completely read answer leaves the connection reusable, but a long answer is not worth reading.
            for piece in response.iter_raw():
                read += piece
                if len(read) > _MOST_READ_BYTES:
                    break
        except httpx.TransportError:
            pass  # the status has arrived, and it alone decides
        finally:
            response.close()
        return _judged(response, read)

    def _connection(self, host: str) -> _Connection:
        """Return the connection of this thread to a host. The one used longest ago is closed if there are too many."""
        mine: OrderedDict[str, _Connection] = self._local.__dict__.setdefault("connections", OrderedDict())
        if host not in mine:
            limits = httpx.Limits(max_connections=1)
            client = httpx.Client(verify=self._context, trust_env=False, follow_redirects=False, limits=limits)
            with self._guard:
                self._clients.add(client)
            mine[host] = _Connection(client)
        mine.move_to_end(host)
        while len(mine) > _MOST_CONNECTIONS:
            _, oldest = mine.popitem(last=False)
            oldest.client.close()
            with self._guard:
                self._clients.discard(oldest.client)
        return mine[host]


def _judged(response: httpx.Response, read: bytes) -> Sent:
    status = response.status_code
    if response.is_success:
        return Sent("delivered")
    said = f"answered {status} {response.reason_phrase}".rstrip()
    if response.has_redirect_location:
        return Sent("dead", f"{said} to {response.headers['location'][:_SHOWN_CHARACTERS]}; redirects are not followed")
    text = read.decode(errors="replace")[:_SHOWN_CHARACTERS].strip()
    said = f"{said}: {text}" if text else said
    if status in _AGAIN or status >= 500:
        return Sent("again", said, retry_after_s(response.headers.get("retry-after"), time.time()))
    return Sent("dead", said)


def retry_after_s(header: str | None, now_s: float) -> float:
    """Return the wait that the header Retry-After requests, in seconds, at most a day; 0 if absent or unreadable."""
    if header is None:
        return 0.0
    if header.strip().isdecimal():
        return min(float(header), _LONGEST_WAIT_S)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
    return min(max(moment.timestamp() - now_s, 0.0), _LONGEST_WAIT_S)
