"""The base class of what a file of the user describes: plans, cards, rules and feed mappings."""

from __future__ import annotations

import msgspec


class Document(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """A table of a file. Unknown fields are rejected, and fields with their default are not written."""
