"""The input of a scoring job: lists files and rows, splits them into shards, reads shards."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from clftask.components.text import TextRecipe
from clftask.config.score import ScoreJob
from clftask.data.readers.base import Source, unified, with_origin
from clftask.data.readers.cells import BAD, common_type
from clftask.data.readers.registry import open_file, open_source
from clftask.data.readers.whole_files import split_sheet
from clftask.errors import ConfigError, DataError, Problem
from clftask.io import listing
from clftask.io.parallel import map_in_threads
from clftask.messages import counted
from clftask.scoring.manifest import InputFile, Piece, ScorePlan, Shard

SKIP_ROWS = 8192
MAX_SHARDS = 1_000_000
MAX_SHOWN = 20


@dataclass(frozen=True)
class Corpus:
    """The current state of the input files, and the columns to read."""

    files: tuple[InputFile, ...]
    schema: pa.Schema


def source_of(job: ScoreJob, may_be_empty: bool = False) -> list[Source]:
    """Open the job's input: one source, or one for each split of a dataset.

    Args:
        job: The job.
        may_be_empty: Return no source if no file matches.

    Raises:
        DataError: No file matches, or the files have no supported format.
    """
    try:
        return list(open_source(job.input.path, "input.path").values())
    except DataError:
        if may_be_empty and not listing.expand(split_sheet(job.input.path)[0]):
            return []
        raise


def survey(
    job: ScoreJob,
    recipe: TextRecipe,
    sources: Sequence[Source],
    files: Collection[str],
    planned: pa.Schema | None = None,
) -> Corpus:
    """Count the rows of some files and determine the types of the columns to read.

    Args:
        job, recipe: The job, and how texts are built from columns.
        sources: The result of `source_of`.
        files: The files to read; the schema is unified over them.
        planned: The columns of an existing table, if the files are added to it.

    Raises:
        DataError: A column is missing or is not text, a file cannot be read, or types differ.
    """
    strings = [*recipe.columns, *([job.input.id] if job.input.id else [])]
    # With planned columns, no file of earlier generations is opened.
    columns = _columns(job, recipe, sources[0], strings) if planned is None else planned.names

    def look(pair: tuple[Source, str]) -> tuple[InputFile, pa.Schema]:
        source, file = pair
        version = source.version(file)
        found = source.survey(file, columns, strings)
        schema = [_as_text(field) if field.name in recipe.columns else field
                  for field in found.schema]  # fmt: skip
        return InputFile(path=file, version=version, num_rows=found.num_rows), pa.schema(schema)

    chosen = [(source, file) for source in sources for file in source.files if file in files]
    looked = map_in_threads(look, chosen)
    schemas = [(file.path, schema) for file, schema in looked]
    if planned is None:
        planned = _schema(job, schemas, sources[0].has_types)
    else:
        _refuse_other_types(schemas, planned, sources[0].has_types)
    return Corpus(tuple(file for file, _ in looked), planned)


def _schema(job: ScoreJob, surveyed: Sequence[tuple[str, pa.Schema]], has_types: bool) -> pa.Schema:
    """Return the types of the columns of all files; check `input.where` with them."""
    remedy = "Convert it, or remove it from input.keep and input.where."
    schema = unified(surveyed, has_types, remedy)
    if job.input.where is not None:
        from clftask.components.row_filter import condition

        condition.check(job.input.where, schema)
    return schema


def _columns(
    job: ScoreJob, recipe: TextRecipe, source: Source, strings: Sequence[str]
) -> list[str]:
    """Return the columns to read; `strings`: those of texts and ids."""
    names = source.names()
    _refuse_missing(job, recipe, source, names)
    tested: list[str] = []
    if job.input.where is not None:
        from clftask.components.row_filter import condition

        tested = condition.columns_of(job.input.where, names)
    return list(dict.fromkeys([*strings, *job.input.keep, *tested]))


def _refuse_other_types(
    surveyed: Sequence[tuple[str, pa.Schema]], planned: pa.Schema, has_types: bool
) -> None:
    """Refuse files with values that the columns of an existing table cannot hold."""
    problems = [
        Problem(file, f"{field.name}: {schema.field(field.name).type}",
                f"must be {field.type}, as in the existing table",
                "Convert it, or use another output.")
        for file, schema in surveyed
        for field in planned
        if not _fits(schema.field(field.name).type, field.type, has_types)
    ]  # fmt: skip
    if problems:
        raise DataError(*problems[:MAX_SHOWN])


def _fits(kind: pa.DataType, planned: pa.DataType, has_types: bool) -> bool:
    """Tell whether a column keeps its type if it also gets values of another type."""
    if not has_types and pa.types.is_string(planned):
        return True
    try:
        return bool(common_type(planned, kind) == planned)
    except pa.ArrowException:
        return False


def _refuse_missing(
    job: ScoreJob, recipe: TextRecipe, source: Source, available: Sequence[str]
) -> None:
    named = [("input.text", c) for c in recipe.columns]
    named += [("input.id", job.input.id)] if job.input.id else []
    named += [("input.keep", c) for c in job.input.keep]
    if missing := source.missing(named, list(available)):
        raise DataError(*missing)


def _as_text(field: pa.Field) -> pa.Field:
    kind = field.type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null, pa.types.is_binary,
             pa.types.is_large_binary)  # fmt: skip
    if not any(test(kind) for test in tests):
        remedy = "Use a text column, or convert this one."
        raise DataError(Problem("input.text", f"{field.name}: {kind}", "must be strings", remedy))
    return pa.field(field.name, pa.string())


# ------------------------------------------------------------------ shards


def cut(files: Iterable[tuple[int, InputFile]], shard_rows: int) -> list[tuple[Piece, ...]]:
    """Split files into shards of about `shard_rows` rows.

    A file with more rows is split evenly into consecutive shards of its own. Smaller files
    share a shard with their neighbours.
    """
    shards: list[tuple[Piece, ...]] = []
    small: list[Piece] = []
    room = shard_rows
    for number, file in files:
        if small and file.num_rows > room:
            shards.append(tuple(small))
            small, room = [], shard_rows
        if file.num_rows > shard_rows:
            shards += [(piece,) for piece in _evenly(number, file.num_rows, shard_rows)]
        elif file.num_rows:
            small.append(Piece(file=number, start=0, num_rows=file.num_rows))
            room -= file.num_rows
    return [*shards, tuple(small)] if small else shards


def _evenly(file: int, num_rows: int, shard_rows: int) -> list[Piece]:
    count = -(-num_rows // shard_rows)
    edges = [num_rows * i // count for i in range(count + 1)]
    return [Piece(file=file, start=a, num_rows=b - a) for a, b in pairwise(edges)]


def refuse_too_many(job: ScoreJob, files: Iterable[InputFile]) -> None:
    """Limit the number of shards: a damaged file may declare any number of rows."""
    rows = sum(file.num_rows for file in files)
    if rows > MAX_SHARDS * job.shard_rows:
        allowed = f"makes more than {MAX_SHARDS:,} shards of {counted(rows, 'row')}"
        raise ConfigError(Problem("shard_rows", job.shard_rows, allowed, "Set it higher."))


def encode_schema(schema: pa.Schema) -> str:
    """Serialise an Arrow schema to base64."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def decode_schema(text: str) -> pa.Schema:
    """Return the schema that `encode_schema` serialised.

    Raises:
        DataError: The text is not a serialised schema.
    """
    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
    except (ValueError, OSError):
        remedy = "Restore it, or use another output."
        raise DataError(Problem("_plan.json", None, "is damaged: columns", remedy)) from None


# ------------------------------------------------------------------ reading


@dataclass(frozen=True)
class ShardRows:
    """A shard's rows, without those that `input.where` leaves out.

    Attributes:
        shard: The shard.
        table: The columns of the plan, `_file` and `_row`.
        text: (rows,) string, null for bad rows.
        text_pair: (rows,) string, or None for single texts.
        reasons: (rows,) string: the reason why a row is bad, else null.
        num_filtered: Number of rows that are left out.
    """

    shard: Shard
    table: pa.Table
    text: pa.ChunkedArray
    text_pair: pa.ChunkedArray | None
    reasons: pa.ChunkedArray
    num_filtered: int = 0


def read_shards(
    plan: ScorePlan, shards: Sequence[Shard], recipe: TextRecipe, batch_rows: int | None = None
) -> Iterator[ShardRows]:
    """Read shards in order; consecutive shards of a text file share one pass over the file.

    Args:
        plan: The plan.
        shards: The shards.
        recipe: How texts are built from columns.
        batch_rows: Rows that are read at once; None: up to those of the largest shard.

    Raises:
        DataError: A file changed since the job was planned, or cannot be read.
    """
    schema, stream = decode_schema(plan.columns), None
    largest = max((shard.num_rows for shard in shards), default=1)
    most = batch_rows or min(SKIP_ROWS, largest)  # texts may be long
    for shard in shards:
        parts: list[pa.Table] = []
        for piece in shard.pieces:
            if stream is None or not stream.leads_to(piece):
                if stream is not None and parts:
                    stream.refuse_changed()
                stream = _Stream(plan.files[piece.file], piece, schema, recipe, most)
            stream.skip_to(piece.start)
            parts.append(stream.take(piece.num_rows))
        assert stream is not None  # a shard has rows
        stream.refuse_changed()
        table = pa.concat_tables(parts)
        kept = matching_rows(table, plan.where)
        yield _with_reasons(shard, kept, recipe, table.num_rows - kept.num_rows)


class _Stream:
    """A stream of one file's rows, starting at a given row."""

    def __init__(
        self, file: InputFile, piece: Piece, schema: pa.Schema, recipe: TextRecipe, num_rows: int
    ) -> None:
        self.file, self.number, self.position = file, piece.file, piece.start
        self.source = open_file(file.path)
        self.batches = self.source.batches(file.path, schema, piece.start, num_rows, recipe.columns)
        self.rest: list[pa.RecordBatch] = []

    def leads_to(self, piece: Piece) -> bool:
        """Tell whether this stream can read a piece as cheaply as a new stream."""
        if self.number != piece.file or self.position > piece.start:
            return False
        is_next = self.position == piece.start
        return is_next or self.source.restart(self.file.path, piece.start) <= self.position

    def skip_to(self, start: int) -> None:
        """Skip the rows before `start`."""
        while self.position < start and self._next_rows(min(SKIP_ROWS, start - self.position)):
            pass

    def take(self, num_rows: int) -> pa.Table:
        """Return the next rows with `_file` and `_row`.

        Raises:
            DataError: The file has fewer rows than when the job was planned.
        """
        first, taken = self.position, self._next_rows(num_rows)
        if self.position - first < num_rows:
            raise self._changed()
        return with_origin(pa.Table.from_batches(taken), self.file.path, first)

    def refuse_changed(self) -> None:
        """Check the file's version, once for all its rows of a shard.

        Raises:
            DataError: The file changed since the job was planned.
        """
        if self.source.version(self.file.path) != self.file.version:
            raise self._changed()

    def _changed(self) -> DataError:
        return DataError(Problem(self.file.path, None, "was changed since the job was planned"))

    def _next_rows(self, num_rows: int) -> list[pa.RecordBatch]:
        """Return the next rows, or fewer at the end of the file."""
        taken: list[pa.RecordBatch] = []
        while (missing := num_rows - sum(b.num_rows for b in taken)) > 0:
            batch = self.rest.pop() if self.rest else next(self.batches, None)
            if batch is None:
                break
            taken.append(batch.slice(0, missing))
            if batch.num_rows > missing:
                self.rest.append(batch.slice(missing))
        self.position += sum(b.num_rows for b in taken)
        return taken


def matching_rows(table: pa.Table, where: str | None) -> pa.Table:
    """Return the rows that match a condition, and damaged rows for which it is unknown."""
    if where is None:
        return table
    from clftask.components.row_filter.condition import matching

    return table.filter(pc.coalesce(matching(where, table), table[BAD].is_valid()))


def _with_reasons(
    shard: Shard, table: pa.Table, recipe: TextRecipe, num_filtered: int
) -> ShardRows:
    """Build the texts, and add a reason to each row without text."""
    found = table[BAD]
    text, pair = recipe.apply(table)
    is_absent = text.is_null() if pair is None else pc.or_(text.is_null(), pair.is_null())
    reasons = pc.coalesce(found, pc.if_else(is_absent, _ABSENT, pa.scalar(None, pa.string())))
    is_bad = reasons.is_valid()
    return ShardRows(
        shard,
        table.drop_columns([BAD]),
        pc.if_else(is_bad, pa.scalar(None, pa.large_string()), text),
        pair,
        reasons,
        num_filtered,
    )


_ABSENT = pa.scalar("the text is null or blank", pa.string())
