"""Ids and signatures as Standard Webhooks has them: HMAC-SHA256 over id, time and body."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from rating.errors import ConfigError

_PREFIX: Final = "whsec_"


def message_id(action_id: str) -> str:
    """A short id for headers, the same for the same action: ids of actions hold full stops and any letters."""
    return "act_" + hashlib.sha256(action_id.encode()).hexdigest()[:32]


def keys(secret: str, of: str) -> list[bytes]:
    """The keys of a secret: its words, each `whsec_` and base64, or any other text as it is.

    Raises ConfigError where what follows `whsec_` is not base64; `of` says whose secret it is.
    """
    found = []
    for word in secret.split():
        if word.startswith(_PREFIX):
            try:
                found.append(base64.b64decode(word.removeprefix(_PREFIX), validate=True))
            except binascii.Error:
                raise ConfigError(f"{of}: found whsec_ and no base64 in its secret; expected base64 after it") from None
        else:
            found.append(word.encode())
    return found


def sign(keys: Sequence[bytes], name: str, timestamp_s: int, body: bytes) -> str:
    """The header webhook-signature: a signature by each key."""
    content = f"{name}.{timestamp_s}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys)
