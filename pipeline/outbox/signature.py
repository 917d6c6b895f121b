"""Message ids and signatures after Standard Webhooks: HMAC-SHA256 over id, time and body."""

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
    """Return a short id for headers, the same for equal action ids.

    An action id itself is unsuitable: it contains full stops and arbitrary letters.
    """
    return "act_" + hashlib.sha256(action_id.encode()).hexdigest()[:32]


def keys(secret: str, of: str) -> list[bytes]:
    """Return the keys of a secret, one per word: the decoded base64 after `whsec_`, or any other word as its bytes.

    Raises ConfigError if the text after `whsec_` is not base64. `of` names the owner of the secret in the error.
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
    """Return the value of the header webhook-signature: one signature per key, separated by spaces."""
    content = f"{name}.{timestamp_s}.".encode() + body
    return " ".join("v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode() for key in keys)
