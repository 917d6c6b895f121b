"""Ingest of small files through the embedded driver, for tests of whole feeds: what is rated, refused and missing."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl

from jobs.context import micros
from pipeline.catalogue import load_catalogue
from pipeline.embedded.driver import Embedded
from pipeline.feeds.mappings import load_mapping

CARD = "8949000000000000018"
OTHER = "8949000000000000026"
PAYG = f"""
[[accounts]]
id = "acme"
[[plans]]
id = "payg"
currency = "EUR"
[[plans.versions]]
version = 1
effective = 2020-01-01
rates = [
    {{ service = "data", price = {{ model = "flat", price = "1" }} }},
    {{ service = "voice", price = {{ model = "flat", price = "1" }} }},
]
[[cards]]
iccid = "{CARD}"
imsi = "901405100000001"
msisdn = "4915112345678"
account = "acme"
plan = "payg"
[[cards]]
iccid = "{OTHER}"
account = "acme"
plan = "payg"
"""


class Ingested:
    """A data directory with a catalogue, into which files of feeds go."""

    def __init__(self, folder: Path, catalogue: str = PAYG) -> None:
        self.folder = folder
        self._catalogue = folder / "catalogue.toml"
        self._catalogue.write_text(catalogue)
        with Embedded.open(folder / "data", write=True) as driver:
            driver.apply(load_catalogue([self._catalogue]))

    def mapping(self, text: str) -> str:
        """Write a mapping file, and return its path."""
        path = self.folder / "mapping.toml"
        path.write_text(text)
        return str(path)

    def ingest(
        self, feed: str, content: str | bytes, as_of: str = "2026-10-31T00:00:00+00:00", name: str = "usage"
    ) -> dict[str, object]:
        """Ingest one file, and return the tally."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        arrived_us = micros(dt.datetime.fromisoformat(as_of))
        with Embedded.open(self.folder / "data", write=True) as driver:
            tally = driver.ingest(load_mapping(feed), [path], arrived_us, fixed_as_of=True).to_dict()
            driver.acknowledge()
        return tally

    def rows(self, table: str) -> pl.DataFrame:
        """Return all landed rows of a table of the history, in the order in which they landed."""
        with Embedded.open(self.folder / "data", write=False) as driver:
            files = [driver.directory.locate(entry) for entry in driver.directory.manifest.group(table)]
        if not files:
            return pl.DataFrame()
        return pl.concat([pl.read_parquet(file, hive_partitioning=False) for file in files])

    def used(self) -> dict[str, int]:
        """Return the units of each record by its key."""
        rows = self.rows("rated")
        if not len(rows):
            return {}
        totals = rows.group_by("record_key").agg(pl.col("quantity_raw").sum()).sort("record_key")
        return dict(zip(totals["record_key"].to_list(), totals["quantity_raw"].to_list(), strict=True))

    def refused(self) -> list[tuple[str | None, str, str | None]]:
        """Return record key, reason and field of each rejected record, in the order of the file."""
        rows = self.rows("rejected")
        return rows.sort("source_row").select("record_key", "reason", "field").rows() if len(rows) else []
