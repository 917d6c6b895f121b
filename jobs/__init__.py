"""The command line and the batch jobs."""

from __future__ import annotations

import os

# Polars' allocator gives memory back half a second after use, only to ask for it again with the next chunk: of the page
# faults of an ingest that was two in five. It reads this when it is loaded, so it must stand before the first import.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:10000,muzzy_decay_ms:10000")
