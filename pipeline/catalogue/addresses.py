"""What an address that messages go to may look like: e-mail, telephone, web."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_EMAIL = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}"
)
_PHONE = re.compile(r"\+?[0-9]{5,15}")


def is_email(text: str) -> bool:
    """Whether `text` is an e-mail address as people have them: no quotes, no comment, a domain of two parts or more."""
    return len(text) <= 254 and _EMAIL.fullmatch(text) is not None


def is_phone(text: str) -> bool:
    """Whether `text` is a telephone number: 5 to 15 digits, perhaps after a +."""
    return _PHONE.fullmatch(text) is not None


def url_problem(url: str) -> str | None:
    """What would be right where this is no URL that messages may be posted to; None where it is one."""
    right = "a URL such as https://example.com/weir, without user or password"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return right
    well = parts.scheme in ("http", "https") and parts.hostname and parts.username is None and parts.password is None
    return None if well and not any(c.isspace() or not c.isprintable() for c in url) else right
