"""Plan, receipts and manifest of a score table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field, model_validator

from clftask.components.decision.cascade import CascadeLimit
from clftask.messages import counted
from clftask.spec import PlainData, Spec, fingerprint

SCHEMA_VERSION = 1


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

    A table that grows has a plan for each generation: with the files that were added and with
    further shards, and with the fingerprint, settings, columns, precision and limit of the first.

    Attributes:
        fingerprint: Hash of the settings, of the precision, and of the limit of a cascade.
        settings: The bundle and job settings that affect the table, without the files.
        columns: The columns to read, as a serialised Arrow schema in base64.
        precision: None until it is agreed; then it is stored with the plan and never changes.
        cascade: The limit of a cascade, likewise; None without a cascade.
        generation: Its number, from 1.
        planned_at: When it was planned, in UTC; empty in tables of older versions.
    """

    schema_version: int = SCHEMA_VERSION
    fingerprint: str
    settings: PlainData
    files: tuple[InputFile, ...]
    shards: tuple[Shard, ...]
    columns: str
    precision: Precision | None = None
    cascade: CascadeLimit | None = None
    generation: int = Field(1, ge=1)
    planned_at: str = ""

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


class Generation(Spec):
    """What one generation of a score table contributed; complete in itself."""

    number: int = Field(ge=1)
    planned_at: str
    files: int
    parts: int
    rows_in: int
    rows_scored: int
    rows_quarantined: int
    rows_filtered: int

    @classmethod
    def of(cls, plan: ScorePlan, counts: Counts) -> Self:
        """Return the generation of a plan; `counts`: those of its shards."""
        rows = {name: n for name, n in counts.dump().items() if name in cls.model_fields}
        sizes = {"files": len(plan.files), "parts": len(plan.shards)}
        return cls(number=plan.generation, planned_at=plan.planned_at, **sizes, **rows)


class Manifest(Spec):
    """The summary of a table: of all generations that are complete.

    It is written when the first one is, and replaced when a further one is.

    Attributes:
        bundle: The fingerprint of the bundle, or both of a cascade.
        generations: They add up to `counts` and `parts`; empty in tables of older versions,
            which have one.
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
    generations: tuple[Generation, ...] = ()

    @property
    def num_generations(self) -> int:
        """The number of complete generations."""
        return max(1, len(self.generations))

    @property
    def adds_up(self) -> bool:
        """Whether each row is scored or quarantined, in each generation and in all."""
        names = ("rows_in", "rows_scored", "rows_quarantined", "rows_filtered")
        sums = [sum(getattr(one, name) for one in self.generations) for name in names]
        return (
            sums == [getattr(self.counts, name) for name in names]
            and sum(one.parts for one in self.generations) == len(self.parts)
            and all(
                one.rows_in == one.rows_scored + one.rows_quarantined for one in self.generations
            )
        )


def shards_of(plans: Iterable[ScorePlan]) -> frozenset[int]:
    """Return the numbers of the shards of some generations."""
    return frozenset(shard.index for plan in plans for shard in plan.shards)
