"""Routes entries to journal partitions. An account, with its cards, pools and add-ons, has one partition.

    usage       each record by its card, found by ICCID, else IMSI, else MSISDN (F1); order is kept within a partition
    catalogue   accounts, zones, plans and rules to every partition; pools, cards and add-ons to their account's
    commands    commands of a card to its partition, commands of rules to every partition
    tick        to every partition

A number without a card goes to a partition computed from the number, always the same one, and is rejected there once as
unknown_card. So the partitions together give the results of one fold over everything, each record in one partition.

Partitions do not know each other's records. A record key, a command key or a session that comes again under a card of
another partition is not recognised as duplicate, conflict or same session (F3, F4). A correction goes to the partition
of the record that it corrects (F6). If it replaces the record by usage of a card of another partition, it is rejected
there as unknown_card: reverse the record, and send the usage as a new one. Each partition has a clock of its own, set
by the entries that it received; ticks bring all of them to the same time.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import replace
from typing import Final, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.journal.entries import Apply, Commands, Entry, Rerate, Tick, Usage
from rating.catalogue.cards import CardIndex, given
from rating.columnar.key_index import Ints
from rating.dedupe.digests import NUMBERS
from rating.dedupe.seen import digest
from rating.errors import CatalogueError, ConfigError, Finding
from rating.rules.commands.commands import RULE_COMMANDS
from schemas.cards import Addon, Catalogue
from schemas.commands import Command

MOST_PARTITIONS: Final = 1 << 15
_SHOWN: Final = 20  # findings of one kind; if a whole fleet moves, not every card is listed
_MOST_CHUNKS: Final = 256  # of the frame of cards; a lookup visits each chunk
_COLUMNS: Final = (*NUMBERS, "device", "account")


def require_partitions(partitions: int) -> None:
    """Raise ConfigError if a journal cannot have so many partitions."""
    if not 1 <= partitions <= MOST_PARTITIONS:
        raise ConfigError(f"partitions of the journal: found {partitions}; expected 1 to {MOST_PARTITIONS}")


class Router:
    """The partition of every card, and the splitting of entries. `partitions` never changes for one journal.

    The routing follows from the catalogues given to `take`, in their order, and from nothing else.
    """

    def __init__(self, partitions: int) -> None:
        """Start without cards. Raises ConfigError if a journal cannot have so many partitions."""
        require_partitions(partitions)
        self.partitions = partitions
        self._cards = pl.DataFrame(schema=dict.fromkeys(_COLUMNS, pl.String) | {"partition": pl.Int64})
        self._partition: Ints | None = None  # for each row of `_cards`
        self._addons: dict[str, int] = {}
        self._indices: dict[str, CardIndex] = {}

    def __len__(self) -> int:
        """Return the number of known cards."""
        return len(self._cards)

    def of_accounts(self, accounts: pl.Series) -> Ints:
        """Return int64[n], the partition of each account id. It is the same in every process and version."""
        return self._by_name("account", accounts)

    def of_usage(self, rows: pl.DataFrame) -> Ints:
        """Return int64[n], the partition of each record. Its first number decides, known or not."""
        found = np.zeros(len(rows), np.int64)
        unnamed = np.ones(len(rows), bool)
        for name in NUMBERS:
            if name in rows.columns and unnamed.any():
                if not rows[name].null_count() and unnamed.all():
                    return self._of_numbers(name, rows[name])
                at = np.flatnonzero(unnamed & rows[name].is_not_null().to_numpy())
                found[at] = self._of_numbers(name, rows[name].gather(at))
                unnamed[at] = False
        return found

    def copy(self) -> Self:
        """Return an independent router with the same cards. Data that never changes is shared."""
        other = copy(self)
        other._indices = dict(self._indices)
        return other

    def knows(self, iccids: pl.Series) -> np.ndarray:
        """Return bool[n], True if a card has the ICCID."""
        return self._rows_of("iccid", iccids) >= 0

    def of_cards(self, iccids: pl.Series) -> Ints:
        """Return int64[n], the partition of the card with each ICCID.

        The partition of an unknown ICCID is computed from the number.
        """
        return self._of_numbers("iccid", iccids)

    def account_of(self, iccid: str) -> str | None:
        """Return the account of the card with an ICCID, or None if there is none."""
        row = int(self._rows_of("iccid", pl.Series([iccid], dtype=pl.String))[0])
        return None if row < 0 else str(self._cards["account"][row])

    def account_of_device(self, device: str) -> str | None:
        """Return the account of the cards of a device, or None if it has no card."""
        row = self._cards["device"].index_of(device)
        return None if row is None else str(self._cards["account"][row])

    def of_device(self, device: str) -> int | None:
        """Return the partition of the cards of a device, or None if it has no card."""
        row = self._cards["device"].index_of(device)
        return None if row is None else int(self._cards["partition"][row])

    def take(self, change: Catalogue) -> pl.DataFrame:
        """Add the cards and add-ons of a catalogue. Returns the cards that are new or changed.

        Raises CatalogueError, with nothing changed, if a card, add-on or device would be in two partitions: its totals,
        its pool and its seen keys stay in its first partition.
        """
        told = change.cards
        named = told.select(*_COLUMNS, partition=pl.Series(self.of_accounts(told["account"])))
        row = pl.int_range(pl.len(), dtype=pl.Int64).alias("row")
        known = self._cards.lazy().with_columns(row).filter(pl.col("iccid").is_in(told["iccid"].implode())).collect()
        fresh = _with_kept(named, told, known).join(
            known, on=self._cards.columns, how="anti", nulls_equal=True, maintain_order="left"
        )
        cards = self._with(fresh, known)
        addons = self._of_addons(change.addons, cards) if change.addons else {}
        self._require_one_partition(change, fresh, known, cards, addons)
        self._addons = self._addons | addons
        if len(fresh):
            self._cards, self._partition, self._indices = cards, None, {}
        return fresh

    def _with(self, fresh: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
        """Return the cards with `fresh` added.

        `known` are the former rows, with row numbers, of cards with the same ICCIDs. Rows keep the order of first
        appearance, as in the fold: if two cards have the same number, the later one counts.
        """
        changed = fresh.join(known.select("iccid", "row"), on="iccid", maintain_order="left")
        new = fresh if changed.is_empty() else fresh.join(known, on="iccid", how="anti", maintain_order="left")
        cards = self._cards
        if len(changed):
            cards = cards.select(column.clone().scatter(changed["row"], changed[column.name]) for column in cards)
        if len(new):
            cards = pl.concat([cards, new], rechunk=False)
        return cards.rechunk() if cards.n_chunks() > _MOST_CHUNKS else cards

    def split(self, entry: Entry) -> list[Entry | None]:
        """Split an entry by partition: one entry for each, or None if it has none.

        The cards of a catalogue are taken first. A catalogue and a tick go to every partition, even if nothing in them
        belongs to it, because rules check the clock then. Raises CatalogueError as `take` does. Raises ValueError if a
        catalogue has no arrival time, because each partition would assume another one, and for a re-rating, which is
        of one partition.
        """
        match entry:
            case Usage():
                return self._split_usage(entry)
            case Commands():
                return self._split_commands(entry)
            case Tick():
                return [entry] * self.partitions
            case Apply(catalogue, at_us):
                if at_us is None:
                    raise ValueError("a catalogue for several partitions must say when it came")
                self.take(catalogue)
                return self.split_known(entry)
            case Rerate():
                raise ValueError("a re-rating has the rows of one partition; expected usage, commands or a catalogue")

    def split_known(self, entry: Apply) -> list[Entry | None]:
        """Split a catalogue that was taken before."""
        return self._split_catalogue(entry)

    def _split_usage(self, entry: Usage) -> list[Entry | None]:
        rows = entry.batch.rows
        partition = self.of_usage(rows)
        originals = entry.originals
        if originals is not None:
            partition = _of_corrected(rows, originals, entry.batch.feed, partition)
        counts = np.bincount(partition, minlength=self.partitions)
        if originals is None and counts.max(initial=0) == len(rows):  # as for most feeds of one account
            return [entry if count and len(rows) else None for count in counts]
        parts = rows[np.argsort(partition.astype(np.int16), kind="stable")]  # NumPy uses radix sort for int16
        found: list[Entry | None] = []
        for number, (start, count) in enumerate(zip(np.cumsum(counts) - counts, counts, strict=True)):
            part = parts[int(start) : int(start + count)]
            of_part = None if originals is None else originals.filter(pc.field("journal_partition") == number)
            found.append(Usage(replace(entry.batch, rows=part), of_part) if count else None)
        return found

    def _split_catalogue(self, entry: Apply) -> list[Entry | None]:
        change = entry.catalogue
        cards = self.of_accounts(change.cards["account"])
        pools = self.of_accounts(pl.Series([pool.account for pool in change.pools], dtype=pl.String)).tolist()
        return [
            Apply(
                replace(
                    change,
                    pools=tuple(pool for pool, at in zip(change.pools, pools, strict=True) if at == partition),
                    addons=tuple(addon for addon in change.addons if self._addons[addon.id] == partition),
                    cards=change.cards.filter(pl.Series(cards == partition)),
                ),
                entry.at_us,
            )
            for partition in range(self.partitions)
        ]

    def _split_commands(self, entry: Commands) -> list[Entry | None]:
        parts: list[list[Command]] = [[] for _ in range(self.partitions)]
        for command, partition in zip(entry.commands, self._of_commands(entry.commands), strict=True):
            for part in parts if isinstance(command, RULE_COMMANDS) else [parts[partition]]:
                part.append(command)
        baselines: list[pl.DataFrame | None] = [None] * self.partitions
        if entry.baseline is not None:
            at = self._of_numbers("iccid", entry.baseline["iccid"])
            baselines = [entry.baseline.filter(pl.Series(at == partition)) for partition in range(self.partitions)]
        return [
            Commands(tuple(part), entry.at_us, baseline) if part else None
            for part, baseline in zip(parts, baselines, strict=True)
        ]

    def _of_commands(self, commands: tuple[Command, ...]) -> list[int]:
        """Return the partition of each command: of its card, else the one that its action id begins with."""
        found = [self._of_action(getattr(command, "action_id", None) or "") for command in commands]
        iccids = [getattr(command, "iccid", None) for command in commands]
        at = [position for position, iccid in enumerate(iccids) if iccid is not None]
        named = self._of_numbers("iccid", pl.Series([iccids[position] for position in at], dtype=pl.String))
        for position, partition in zip(at, named.tolist(), strict=True):
            found[position] = partition
        return found

    def _of_action(self, action_id: str) -> int:
        begins = action_id.partition(".")[0]
        if begins.isdecimal() and begins.isascii() and int(begins) < self.partitions:
            return int(begins)
        return int(self._by_name("action", pl.Series([action_id]))[0])

    def _by_name(self, kind: str, names: pl.Series) -> Ints:
        """Return int64[n], the partition computed from names alone."""
        if not len(names):
            return np.zeros(0, np.int64)
        return (digest(kind, names)[1] % np.uint64(self.partitions)).astype(np.int64)

    def _of_numbers(self, name: str, numbers: pl.Series) -> Ints:
        """Return int64[n], the partition of the card with each number. Numbers must not be null."""
        if not len(numbers):
            return np.zeros(0, np.int64)
        high, low = digest(name, numbers)
        card = self._index(name).find(high, low)
        if self._partition is None:
            self._partition = self._cards["partition"].to_numpy()
        unknown = np.flatnonzero(card < 0)
        if len(unknown) == len(card):
            return (low % np.uint64(self.partitions)).astype(np.int64)
        found: Ints = self._partition[card]
        found[unknown] = low[unknown] % np.uint64(self.partitions)
        return found

    def _rows_of(self, name: str, numbers: pl.Series) -> Ints:
        """Return int64[n], the row of the card with each number, or -1."""
        return self._index(name).find(*digest(name, numbers))

    def _index(self, name: str) -> CardIndex:
        if name not in self._indices:
            self._indices[name] = CardIndex.of(name, self._cards[name])
        return self._indices[name]

    def _of_addons(self, addons: Iterable[Addon], cards: pl.DataFrame) -> dict[str, int]:
        """Return the partition of each add-on by id: that of its card.

        The partition of an unknown ICCID is computed from the number.
        """
        ids, iccids = [addon.id for addon in addons], [addon.iccid for addon in addons]
        wanted = pl.DataFrame({"iccid": iccids}, schema={"iccid": pl.String})
        known = wanted.join(cards.select("iccid", "partition"), on="iccid", how="left", maintain_order="left")
        alone = pl.Series(self._by_name("iccid", wanted["iccid"]))
        return dict(zip(ids, known["partition"].fill_null(alone).to_list(), strict=True))

    def _require_one_partition(
        self,
        change: Catalogue,
        fresh: pl.DataFrame,
        known: pl.DataFrame,
        cards: pl.DataFrame,
        addons: dict[str, int],
    ) -> None:
        was = fresh.select("iccid").join(known, on="iccid", how="left", maintain_order="left")["partition"]
        moved = fresh.select("iccid", "account").filter((was != fresh["partition"]).fill_null(False))
        findings = [
            _finding(
                "cards.account",
                f"card {iccid} in account {account}, which lives in another partition of the journal than the card",
                "the account it has, or one of the same partition: the card's totals, pool and seen keys are there. To "
                "give the SIM to the other account, deactivate this card and go on under one with another ICCID",
            )
            for iccid, account in moved.head(_SHOWN).iter_rows()
        ]
        if len(moved) > _SHOWN:
            findings.append(_finding("cards.account", f"{len(moved) - _SHOWN:,} more such cards", "none"))
        findings += [
            _finding(
                "addons.iccid",
                f"add-on {addon.id} for card {addon.iccid}, while it is in force for one of another partition",
                "the same card: give the add-on of another card another id",
            )
            for addon in change.addons
            if self._addons.get(addon.id, addons[addon.id]) != addons[addon.id]
        ]
        devices = fresh["device"].drop_nulls().unique()
        if len(devices):
            spread = (
                cards.filter(pl.col("device").is_in(devices.implode()))
                .group_by("device")
                .agg(pl.col("partition").n_unique(), pl.col("iccid").sort().head(2))
                .filter(pl.col("partition") > 1)
                .sort("device")
            )
            findings += [
                _finding(
                    "cards.device",
                    f"device {device} with cards of several partitions of the journal, such as {', '.join(iccids)}",
                    "cards of one account, or another name for the device of one of the accounts: what SIMs of one "
                    "device share is counted in one partition",
                )
                for device, iccids in spread.select("device", "iccid").head(_SHOWN).iter_rows()
            ]
        if findings:
            raise CatalogueError(findings)


def _with_kept(cards: pl.DataFrame, told: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Return the cards with the numbers and devices that those in force keep: the ones that their rows do not give."""
    if "given" not in told.columns or known.is_empty():
        return cards
    before = cards.select("iccid").join(known, on="iccid", how="left", maintain_order="left")
    columns = {
        name: cards[name].zip_with(pl.Series(given(told, name)), before[name])
        for name in _COLUMNS
        if name not in ("iccid", "account")
    }
    return cards.with_columns(**columns)


def _finding(field: str, found: str, expected: str) -> Finding:
    return Finding((field,), found, expected, file="catalogue")


def _of_corrected(rows: pl.DataFrame, originals: pa.Table, feed: str, otherwise: Ints) -> Ints:
    """Return int64[n], the partition in which each corrected record was rated, or `otherwise` if it was not rated."""
    own = originals.filter(pc.equal(originals["feed"].cast(pa.string()), feed))
    rated = dict(zip(own["record_key"].to_pylist(), own["journal_partition"].to_pylist(), strict=True))
    keys = rows["corrects_key"].to_list()
    return np.array([rated.get(key, at) for key, at in zip(keys, otherwise.tolist(), strict=True)], np.int64)
