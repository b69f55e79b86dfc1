"""Plan, receipts and manifest of a score table."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from pydantic import Field, model_validator

from clftask.components.decision.cascade import CascadeLimit
from clftask.components.score_table import DELTA_LOG, MANIFEST, PLAN
from clftask.errors import ConfigError, DataError, Problem
from clftask.io import listing, storage
from clftask.io.strict_json import to_json
from clftask.messages import counted
from clftask.spec import PlainData, Spec, fingerprint

SCHEMA_VERSION = 1
RECEIPTS, QUARANTINE = "_receipts", "_quarantine"
NUM_THREADS, MAX_HELD = 8, 256
_Stored = TypeVar("_Stored", bound=Spec)


class InputFile(Spec):
    """A file to score, with its version when the job was planned."""

    path: str
    version: str
    num_rows: int = Field(ge=0)


class Piece(Spec):
    """Consecutive rows of a file; `file` is the index in the plan's files."""

    file: int = Field(ge=0)
    start: int = Field(ge=0)
    num_rows: int = Field(ge=1)


class Shard(Spec):
    """The unit of work, commit and resume: rows of one large file, or some small files."""

    index: int = Field(ge=0)
    pieces: tuple[Piece, ...] = Field(min_length=1)

    @property
    def num_rows(self) -> int:
        """Rows of all pieces."""
        return sum(piece.num_rows for piece in self.pieces)


class Precision(Spec):
    """The precision of a score table: one for all its workers and all runs of its job.

    Attributes:
        asked: The job's `precision`.
        used: fp32, bf16 or fp16.
        agreement: Share of the sampled rows with the same decision as in fp32; None if no row
            was compared.
        rows: Number of these rows.
        reason: Why a faster precision is not used.
    """

    asked: str
    used: str
    agreement: float | None = None
    rows: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.reason or self.agreement is None:
            return f"{self.used}; {self.reason}" if self.reason else self.used
        sample = counted(self.rows, "sampled row")
        return f"{self.used}; {self.agreement:.1%} of {sample} get the same labels as in fp32"


@dataclass(frozen=True)
class Agreement:
    """What one worker chooses for a new table: its precision, and the limit of a cascade."""

    precision: Precision
    cascade: CascadeLimit | None = None


class ScorePlan(Spec):
    """The files, shards and settings of a scoring job.

    Attributes:
        fingerprint: Hash of the settings, of the precision, and of the limit of a cascade.
        settings: The bundle and job settings that affect the table, without the files.
        columns: The columns to read, as a serialised Arrow schema in base64.
        precision: None until it is agreed; then it is stored with the plan and never changes.
        cascade: The limit of a cascade, likewise; None without a cascade.
    """

    schema_version: int = SCHEMA_VERSION
    fingerprint: str
    settings: PlainData
    files: tuple[InputFile, ...]
    shards: tuple[Shard, ...]
    columns: str
    precision: Precision | None = None
    cascade: CascadeLimit | None = None

    @model_validator(mode="after")
    def _hold_together(self) -> Self:
        if any(p.file >= len(self.files) for shard in self.shards for p in shard.pieces):
            raise ValueError("a shard refers to a file that is not listed")
        if len({shard.index for shard in self.shards}) < len(self.shards):
            raise ValueError("shard indices must be distinct")
        return self

    @property
    def num_rows(self) -> int:
        """Rows of all files, also those that `input.where` leaves out."""
        return sum(file.num_rows for file in self.files)

    @property
    def where(self) -> str | None:
        """The condition of the rows to score."""
        return self.settings.get("input.where")

    @property
    def used_precision(self) -> str:
        """The agreed precision; without an agreement, the requested one, or fp32 for auto."""
        asked = self.settings.get("precision", "fp32")
        return self.precision.used if self.precision else "fp32" if asked == "auto" else asked

    @property
    def promised(self) -> float | None:
        """The agreement that a cascade promises; None without a cascade."""
        return self.settings.get("bundle.agreement")

    @property
    def is_agreed(self) -> bool:
        """Whether precision and limit are chosen."""
        return self.precision is not None and (self.promised is None or self.cascade is not None)

    def agreed(self, precision: Precision, cascade: CascadeLimit | None = None) -> ScorePlan:
        """Return the plan with a precision, and a cascade's limit; its fingerprint covers them."""
        used: dict[str, Any] = {"precision.used": precision.used}
        used |= {} if cascade is None else {"cascade.limit": cascade.limit}
        hashed = fingerprint({**self.settings, **used})
        found = {"precision": precision, "cascade": cascade, "fingerprint": hashed}
        return self.model_copy(update=found)

    def input_of(self, shard: Shard) -> str:
        """Return a hash of a shard's rows: files, versions and row ranges."""
        places = [(self.files[p.file], p) for p in shard.pieces]
        return fingerprint([[f.path, f.version, p.start, p.num_rows] for f, p in places])

    def mark(self, shard: Shard) -> dict[str, str]:
        """Return the footer entries that tie a shard's part to this plan."""
        return {"clftask.plan": self.fingerprint, "clftask.input": self.input_of(shard)}


class Counts(Spec):
    """Row and label counts; stored in a part's footer and in its receipt.

    Attributes:
        rows_in: Scored and quarantined rows.
        rows_filtered: Rows that `input.where` leaves out; they are not in `rows_in`.
        rows_truncated: Rows whose text was truncated.
        confidence_sum: Sum of the highest probability over the scored rows.
        labels: Number of predictions per label, without labels that were never predicted.
        answered_by: Number of scored rows by the bundle of a cascade: small, large.
    """

    rows_in: int = 0
    rows_scored: int = 0
    rows_quarantined: int = 0
    rows_filtered: int = 0
    rows_truncated: int = 0
    confidence_sum: float = 0.0
    labels: dict[str, int] = {}
    answered_by: dict[str, int] = {}

    @property
    def rows_read(self) -> int:
        """All rows of the input."""
        return self.rows_in + self.rows_filtered

    def __add__(self, other: Counts) -> Counts:
        names = [n for n in type(self).model_fields if n not in ("labels", "answered_by")]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        labels = _sums(self.labels, other.labels)
        return Counts(**sums, labels=labels, answered_by=_sums(self.answered_by, other.answered_by))


def _sums(some: dict[str, int], others: dict[str, int]) -> dict[str, int]:
    return {name: some.get(name, 0) + others.get(name, 0) for name in some | others}


class Receipt(Spec):
    """Confirms a stored part; derived from its bytes. `input` is the hash of the shard's rows."""

    shard: int
    input: str
    counts: Counts
    sha256: str
    num_bytes: int
    seconds: float


class PartEntry(Spec):
    """A part in the manifest."""

    name: str = Field(pattern=r"^part-[0-9]+\.parquet$")
    num_rows: int
    sha256: str


class Manifest(Spec):
    """The summary of a complete table; its presence means that the table is complete.

    `bundle` is the fingerprint of the bundle, or both of a cascade.
    """

    schema_version: int = SCHEMA_VERSION
    fingerprint: str
    bundle: str
    task: str
    label_names: tuple[str, ...]
    counts: Counts
    parts: tuple[PartEntry, ...]
    seconds: float
    precision: Precision | None = None
    cascade: CascadeLimit | None = None


class ScoreTableStore:
    """Reads and writes plan, receipts and manifest of the score table at `output`."""

    def __init__(self, output: str) -> None:
        self.output = output

    def part(self, index: int) -> str:
        """Return the path of a shard's part."""
        return storage.join(self.output, f"part-{index:05d}.parquet")

    def quarantine(self, index: int) -> str:
        """Return the path of a shard's quarantined rows."""
        return storage.join(self.output, QUARANTINE, f"part-{index:05d}.jsonl")

    def receipt(self, index: int) -> str:
        """Return the path of a shard's receipt."""
        return storage.join(self.output, RECEIPTS, f"part-{index:05d}.json")

    def forget(self, receipts: Collection[int] = (), quarantines: Collection[int] = ()) -> None:
        """Delete the manifest, and receipts and quarantined rows of shards to score again."""
        storage.delete(storage.join(self.output, MANIFEST))
        for place in [*map(self.receipt, receipts), *map(self.quarantine, quarantines)]:
            storage.delete(place)

    def plan(self) -> ScorePlan | None:
        """Read the plan, or return None if there is none."""
        return self._read(storage.join(self.output, PLAN), ScorePlan)

    def manifest(self) -> Manifest | None:
        """Read the manifest, or return None if the table is incomplete."""
        return self._read(storage.join(self.output, MANIFEST), Manifest)

    def write_plan(self, plan: ScorePlan) -> bool:
        """Write the plan if there is none; return False if another run was first."""
        return storage.put_if_absent(storage.join(self.output, PLAN), _encode(plan))

    def replace_plan(self, plan: ScorePlan) -> None:
        """Overwrite the plan."""
        storage.put(storage.join(self.output, PLAN), _encode(plan))

    def write_receipt(self, receipt: Receipt) -> None:
        """Write a receipt; overwriting is safe, because receipts of one part are equal."""
        storage.put(self.receipt(receipt.shard), _encode(receipt))

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest, which marks the table as complete."""
        storage.put(storage.join(self.output, MANIFEST), _encode(manifest))

    def is_taken(self) -> bool:
        """Tell whether the output already contains parts, receipts, a manifest or a Delta log."""
        files = listing.list_files(self.output, recursive=False)
        names = [f.path.rpartition("/")[2] for f in files]
        has_parts = any(n.startswith("part-") and n.endswith(".parquet") for n in names)
        folders = [storage.join(self.output, name) for name in (RECEIPTS, QUARANTINE, DELTA_LOG)]
        return has_parts or MANIFEST in names or any(listing.list_files(f) for f in folders)

    def stored_parts(self) -> set[int]:
        """Return the numbers of the stored parts."""
        return _numbers(listing.list_files(self.output, recursive=False), "parquet")

    def stored_quarantines(self) -> set[int]:
        """Return the numbers of the parts with quarantined rows."""
        return _numbers(listing.list_files(storage.join(self.output, QUARANTINE)), "jsonl")

    def stored_receipts(self) -> set[int]:
        """Return the numbers of the parts with receipts."""
        return _numbers(listing.list_files(storage.join(self.output, RECEIPTS)), "json")

    def receipts(self) -> Iterable[Receipt]:
        """Read all receipts, ordered by part number, in groups of `MAX_HELD`."""
        names = [self.receipt(index) for index in sorted(self.stored_receipts())]
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            for start in range(0, len(names), MAX_HELD):
                some = names[start : start + MAX_HELD]
                yield from pool.map(lambda name: _parse(name, Receipt), some)

    def _read(self, path: str, kind: type[_Stored]) -> _Stored | None:
        return _parse(path, kind) if storage.exists(path) else None


def _encode(spec: Spec) -> bytes:
    return to_json(spec.dump(), ensure_ascii=False).encode()


def _parse(path: str, kind: type[_Stored]) -> _Stored:
    remedy = _remedy(path)
    content = storage.read_json(path, remedy)
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        allowed = "was written by a newer clftask"
        raise DataError(Problem(path, version, allowed, "Upgrade clftask."))
    try:
        return kind.load(content)
    except ConfigError:
        raise DataError(Problem(path, None, "is damaged", remedy)) from None


def _remedy(path: str) -> str:
    """Return the remedy for a damaged file; all but the plan can be derived from the parts."""
    is_plan = path.endswith("/" + PLAN)
    return "Restore it, or use another output." if is_plan else "Delete it, run the job again."


def _numbers(files: Iterable[listing.FileInfo], kind: str) -> set[int]:
    """Return the numbers of files such as part-00007.json.

    Other names are ignored, such as temporary files of a killed or concurrent run.
    """
    pattern = re.compile(rf".*/part-([0-9]{{5,}})\.{kind}")
    return {int(found[1]) for file in files if (found := pattern.fullmatch(file.path))}
