"""[outbox]: destinations and routes of actions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from pipeline.catalogue.addresses import url_problem
from pipeline.catalogue.findings import NOTHING, Text, choice
from pipeline.catalogue.lines import Path as Place
from pipeline.config.table import ConfigTable, PathText, Problem, network_problems, not_both, within
from schemas.rules import ActionType, Channel

FILE: Final = "file"  # name of the destination for actions that no route matches
EMAIL: Final = "email"


class FileDestination(ConfigTable, frozen=True):
    """A file to which messages are appended, one per line; "-" is standard output."""

    name: str
    path: PathText


class WebhookDestination(ConfigTable, frozen=True):
    """A URL to which messages are posted. Without `url`, the action names the URL.

    Addresses that are not public are rejected unless they are in a network of `allow`. Plain http is allowed only to
    such networks. The secret, from the environment or a file, signs the messages. It may consist of several words, each
    of which gives a signature (for rotation).
    """

    name: str
    url: str | None = None
    secret_env: str | None = None
    secret_file: PathText | None = None
    timeout_s: int = 10
    allow: tuple[str, ...] = ()
    ca_file: PathText | None = None


class Email(ConfigTable, frozen=True):
    """The mail server, the sender, and the recipients (`to`) of actions that name no address."""

    host: str
    sender: str
    port: int | None = None  # None: 587, or 465 with "tls"
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str | None = None
    password_env: str | None = None
    password_file: PathText | None = None
    to: tuple[str, ...] = ()
    timeout_s: int = 30
    allow: tuple[str, ...] = ()
    ca_file: PathText | None = None


class Route(ConfigTable, frozen=True):
    """A route: actions of these types, rules and (for notify) channels go to `to`. An empty field matches all."""

    to: tuple[str, ...]
    actions: tuple[ActionType, ...] = ()
    channels: tuple[Channel, ...] = ()
    rules: tuple[str, ...] = ()


class Outbox(ConfigTable, frozen=True):
    """The delivery of actions (docs/actions.md)."""

    file: PathText | None = None  # None: outbox/actions.ndjson in the data directory
    attempts: int = 20
    first_delay_s: int = 2
    longest_delay_s: int = 3600
    workers: int = 8
    keep_days: int = 30
    files: tuple[FileDestination, ...] = ()
    webhooks: tuple[WebhookDestination, ...] = ()
    email: Email | None = None
    routes: tuple[Route, ...] = ()


def outbox_problems(outbox: Outbox) -> Iterator[Problem]:
    """Yield the problems of [outbox] that its types do not exclude."""
    for name, least, most in (
        ("attempts", 1, 1000), ("first_delay_s", 1, 3600), ("longest_delay_s", 1, 86_400), ("workers", 1, 256),
        ("keep_days", 0, 36_500),
    ):  # fmt: skip
        yield from within((name,), getattr(outbox, name), least, most)
    names = [FILE]
    named = [("files", at, one.name) for at, one in enumerate(outbox.files)]
    named += [("webhooks", at, hook.name) for at, hook in enumerate(outbox.webhooks)]
    for table, at, name in named:
        if name in (*names, EMAIL, ""):
            yield (table, at, "name"), name, "a name of its own, other than file and email"
        names.append(name)
    names += [EMAIL] if outbox.email is not None else []
    for at, hook in enumerate(outbox.webhooks):
        yield from _webhook_problems(("webhooks", at), hook)
    if outbox.email is not None:
        yield from _email_problems(outbox.email)
    for at, route in enumerate(outbox.routes):
        if not route.to:
            yield ("routes", at, "to"), route.to, "at least one destination"
        for place, name in enumerate(route.to):
            if name not in names:
                yield ("routes", at, "to", place), name, choice(name, names, "a destination: one of")
        if route.channels and route.actions and "notify" not in route.actions:
            yield ("routes", at, "channels"), route.channels, "no channels: only notify has them"


def _webhook_problems(place: Place, hook: WebhookDestination) -> Iterator[Problem]:
    if hook.url is not None and (wrong := url_problem(hook.url)):
        yield (*place, "url"), Text("what messages cannot be posted to"), wrong
    if (hook.secret_env is None) == (hook.secret_file is None):
        found = NOTHING if hook.secret_env is None else Text("both secret_env and secret_file")
        yield (*place, "secret_env"), found, "one of secret_env and secret_file: messages are signed"
    yield from within((*place, "timeout_s"), hook.timeout_s, 1, 300)
    yield from network_problems((*place, "allow"), hook.allow)


def _email_problems(email: Email) -> Iterator[Problem]:
    given = email.password_env is not None or email.password_file is not None
    yield from not_both(email, "password", ("email",))
    if given != (email.user is not None):
        yield ("email", "user"), NOTHING if given else email.user, "user and password together, or neither"
    if given and email.security == "none":
        yield ("email", "security"), email.security, "starttls or tls: a password does not go out in the clear"
    if email.port is not None:
        yield from within(("email", "port"), email.port, 1, 65_535)
    for place, address in (
        (("email", "sender"), email.sender),
        *((("email", "to", i), a) for i, a in enumerate(email.to)),
    ):
        if "@" not in address.strip("@") or any(c.isspace() for c in address):
            yield place, address, "a mail address such as weir@example.com"
    yield from within(("email", "timeout_s"), email.timeout_s, 1, 300)
    yield from network_problems(("email", "allow"), email.allow)
