"""Routing of actions to destinations."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import FILE, Outbox, Route
from pipeline.outbox.message import Target
from schemas.rules import Action


def targets(outbox: Outbox, action: Action, rule: str) -> Sequence[Target]:
    """Return the destinations of the routes that match the action, each once; the default file if none matches.

    For a notify, each channel goes to the destinations of the routes that match it. Channels that no route matches go
    to the default file, so that none is lost.
    """
    if action.type != "notify" or not action.by:
        names = [name for route in outbox.routes if _takes(route, action, rule) for name in route.to]
        return [Target(name) for name in dict.fromkeys(names or [FILE])]
    found: dict[str, set[str]] = {}
    for channel in action.by:
        names = [
            name
            for route in outbox.routes
            if _takes(route, action, rule) and (not route.channels or channel in route.channels)
            for name in route.to
        ]
        for name in names or [FILE]:
            found.setdefault(name, set()).add(channel)
    return [Target(name, tuple(one for one in action.by if one in channels)) for name, channels in found.items()]


def _takes(route: Route, action: Action, rule: str) -> bool:
    if route.channels and action.type != "notify":
        return False
    return (not route.actions or action.type in route.actions) and (not route.rules or rule in route.rules)
