"""The command line and the batch jobs."""

from __future__ import annotations

import os

# By default Polars' allocator returns memory to the system half a second after use and requests it again for the next
# chunk. That caused two in five page faults of an ingest. The allocator reads this variable when it is loaded, so the
# variable must be set before the first import of Polars.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:10000,muzzy_decay_ms:10000")
