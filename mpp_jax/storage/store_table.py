"""The pictures of a store as columns: a million of them in little memory, each made when asked for.

A `Table` holds one array or list for each entry of `StoredItem`; `Items` is a selection of its rows
that looks like a sequence of `StoredItem`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from mpp_jax.data.dataset import SPLITS
from mpp_jax.storage.store_format import STATUSES, StoredItem


@dataclass(frozen=True)
class Ragged:
    """Lists of whole numbers of different lengths.

    Attributes:
        ends: (N,) int64, where each list ends.
        values: int32, all of them one behind the other.
    """

    ends: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, lists: Sequence[Sequence[int]]) -> "Ragged":
        """Return lists in this form."""
        ends = np.cumsum([len(part) for part in lists], dtype=np.int64)
        return cls(ends, np.array([v for part in lists for v in part], np.int32))

    def __getitem__(self, row: int) -> tuple[int, ...]:
        """Return one list."""
        start = int(self.ends[row - 1]) if row else 0
        return tuple(self.values[start : int(self.ends[row])].tolist())

    def pairs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (positions among the rows, values) of the lists of some rows, int64 and int32."""
        starts = np.concatenate([[0], self.ends])[rows]
        lengths = self.ends[rows] - starts
        where = np.repeat(np.arange(len(rows)), lengths)
        first = np.repeat(np.cumsum(lengths) - lengths, lengths)
        return where, self.values[np.repeat(starts, lengths) + np.arange(len(where)) - first]


@dataclass(frozen=True)
class Table:
    """Columns, see `StoredItem`.

    Attributes:
        ids: names.
        splits: (N,) uint8, which of `SPLITS`.
        labels: class indices.
        ignored: class indices.
        statuses: (N,) uint8, which of `STATUSES`.
        reasons: of those that have one, by row.
        shards: (N,) int32.
        rows: (N,) int32, -1 for none.
        causes: of those that have one, by row.
        sha256: (N, 32) uint8.
        known: (N,) bool, whether there is a digest.
    """

    ids: list[str]
    splits: np.ndarray
    labels: Ragged
    ignored: Ragged
    statuses: np.ndarray
    reasons: Mapping[int, str]
    shards: np.ndarray
    rows: np.ndarray
    causes: Mapping[int, str]
    sha256: np.ndarray
    known: np.ndarray

    def item(self, i: int) -> StoredItem:
        """Return one picture."""
        row = int(self.rows[i])
        return StoredItem(
            self.ids[i],
            SPLITS[self.splits[i]],
            self.labels[i],
            self.ignored[i],
            STATUSES[self.statuses[i]],
            self.reasons.get(i),
            int(self.shards[i]),
            None if row < 0 else row,
            self.causes.get(i),
            self.sha256[i].tobytes().hex() if self.known[i] else None,
        )


class Items(Sequence[StoredItem]):
    """Some rows of a table.

    Attributes:
        table: all of it.
        places: (n,) int64, which rows.
    """

    def __init__(self, table: Table, places: np.ndarray) -> None:
        """Select rows."""
        self.table, self.places = table, places

    @classmethod
    def all_of(cls, table: Table) -> "Items":
        """Select every row."""
        return cls(table, np.arange(len(table.ids)))

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, i: int) -> StoredItem: ...
    @overload
    def __getitem__(self, i: "slice | np.ndarray") -> "Items": ...
    def __getitem__(self, i: "int | slice | np.ndarray") -> "StoredItem | Items":
        if isinstance(i, slice | np.ndarray):
            return Items(self.table, self.places[i])
        return self.table.item(int(self.places[i]))

    def __iter__(self) -> Iterator[StoredItem]:
        return (self.table.item(i) for i in self.places.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]

    @property
    def ids(self) -> list[str]:
        """Their names."""
        return [self.table.ids[i] for i in self.places.tolist()]

    @property
    def shards(self) -> np.ndarray:
        """Their shards, (n,) int32."""
        return self.table.shards[self.places]

    @property
    def rows(self) -> np.ndarray:
        """Their rows in the shards, (n,) int32; -1 for none."""
        return self.table.rows[self.places]

    def of(self, *, split: str | None = None, status: str | None = None) -> "Items":
        """Return those of a split and a status; None for any."""
        chosen = np.ones(len(self), bool)
        if split is not None:
            chosen &= self.table.splits[self.places] == SPLITS.index(split)
        if status is not None:
            chosen &= self.table.statuses[self.places] == STATUSES.index(status)
        return self[chosen]

    def targets(self, classes: int) -> np.ndarray:
        """Return (n, L) float32: +1 present, -1 absent, 0 ignored."""
        targets = np.full((len(self), classes), -1, np.float32)
        targets[self.table.ignored.pairs(self.places)] = 0
        targets[self.table.labels.pairs(self.places)] = 1
        return targets

    def only_labels(self) -> np.ndarray:
        """Return (n,) int32, the only label of each.

        Raises:
            ValueError: one has none, or several.
        """
        where, values = self.table.labels.pairs(self.places)
        if not np.array_equal(where, np.arange(len(self))):
            raise ValueError("labels: every picture must have exactly one")
        return values


class TableBuilder:
    """Columns that grow by one shard after the other."""

    def __init__(self, classes: Sequence[str]) -> None:
        """Begin with classes that labels, which are names, will index; new names join them."""
        self.classes = [*classes]
        self._number = {name: number for number, name in enumerate(classes)}
        self._ids: list[str] = []
        self._parts: dict[str, list[np.ndarray]] = {}
        self._lists: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
        self._reasons: dict[int, str] = {}
        self._causes: dict[int, str] = {}

    def add(self, shard: int, record: Mapping[str, Any]) -> None:
        """Append a shard's columns, as its record has them (`mpp_jax.storage.store_records`).

        Raises:
            ValueError, TypeError, KeyError: entries of another kind.
        """
        first, ids = len(self._ids), record["ids"]
        digests = record["sha256"]
        found = bytes.fromhex("".join(digest or "0" * 64 for digest in digests))
        columns: dict[str, np.ndarray] = {
            "splits": np.array([SPLITS.index(name) for name in record["splits"]], np.uint8),
            "statuses": np.array([STATUSES.index(name) for name in record["statuses"]], np.uint8),
            "shards": np.full(len(ids), shard, np.int32),
            "rows": np.array([-1 if row is None else row for row in record["rows"]], np.int32),
            "sha256": np.frombuffer(found, np.uint8).reshape(len(ids), 32),
            "known": np.array([digest is not None for digest in digests], bool),
        }
        for name in ("labels", "ignored"):
            numbers = [self._number_of(label) for row in record[name] for label in row]
            lengths, values = self._lists.setdefault(name, ([], []))
            lengths.append(np.array([len(row) for row in record[name]], np.int64))
            values.append(np.array(numbers, np.int32))
        for name, column in columns.items():
            self._parts.setdefault(name, []).append(column)
        for kept, texts in ((self._reasons, "reasons"), (self._causes, "causes")):
            kept.update((first + i, v) for i, v in enumerate(record[texts]) if v is not None)
        self._ids += ids

    def _number_of(self, name: str) -> int:
        if name not in self._number:
            self._number[name] = len(self.classes)
            self.classes.append(name)
        return self._number[name]

    def finish(self) -> Table:
        """Return the table."""
        if not self._parts:
            return table_of(())
        whole: dict[str, Any] = {name: np.concatenate(part) for name, part in self._parts.items()}
        for name, (lengths, values) in self._lists.items():
            whole[name] = Ragged(np.cumsum(np.concatenate(lengths)), np.concatenate(values))
        return Table(ids=self._ids, reasons=self._reasons, causes=self._causes, **whole)


def table_of(items: Iterable[StoredItem]) -> Table:
    """Return pictures as columns."""
    items = tuple(items)
    digests = "".join(item.sha256 or "0" * 64 for item in items)
    return Table(
        [item.id for item in items],
        np.array([SPLITS.index(item.split) for item in items], np.uint8),
        Ragged.of([item.labels for item in items]),
        Ragged.of([item.ignored for item in items]),
        np.array([STATUSES.index(item.status) for item in items], np.uint8),
        {i: item.reason for i, item in enumerate(items) if item.reason is not None},
        np.array([item.shard for item in items], np.int32),
        np.array([-1 if item.row is None else item.row for item in items], np.int32),
        {i: item.cause for i, item in enumerate(items) if item.cause is not None},
        np.frombuffer(bytes.fromhex(digests), np.uint8).reshape(len(items), 32),
        np.array([item.sha256 is not None for item in items], bool),
    )
