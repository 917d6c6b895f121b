"""Syntax of the addresses to which messages go: e-mail, telephone, URL."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_EMAIL = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}"
)
_PHONE = re.compile(r"\+?[0-9]{5,15}")


def is_email(text: str) -> bool:
    """Return whether `text` is a common e-mail address: no quotes, no comments, a domain of at least two labels."""
    return len(text) <= 254 and _EMAIL.fullmatch(text) is not None


def is_phone(text: str) -> bool:
    """Return whether `text` is a telephone number: 5 to 15 digits, optionally after a +."""
    return _PHONE.fullmatch(text) is not None


def url_problem(url: str) -> str | None:
    """Return None if messages can be posted to this URL, else a text that says what would be right."""
    right = "a URL such as https://example.com/weir, without user or password"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return right
    well = parts.scheme in ("http", "https") and parts.hostname and parts.username is None and parts.password is None
    return None if well and not any(c.isspace() or not c.isprintable() for c in url) else right
