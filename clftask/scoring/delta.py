"""Delta Lake: one transaction per complete generation of a score table; its parts are the data."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from clftask.components.score_table import DELTA_LOG
from clftask.errors import ConfigError, JobError, Problem
from clftask.io import filesystems, listing, local_disk, storage
from clftask.io.storage_errors import translate_storage_errors
from clftask.io.store_options import store_options
from clftask.io.tempdirs import temporary_folder
from clftask.messages import first_line
from clftask.scoring.manifest import PartEntry

_PART = re.compile(r"part-[0-9]{5,}\.parquet")
MAX_TRIES = 5  # each concurrent writer can be first once
_NO_NAMES = " ,;{}()\n\t="  # a Delta table needs column mapping for them
_REMEDY = "Set output.format: parquet"


def refuse_unfit(schema: pa.Schema) -> None:
    """Refuse columns that a Delta table cannot have, and a missing package.

    Raises:
        ConfigError: Lists them.
    """
    if importlib.util.find_spec("deltalake") is None:
        remedy = "Install it: pip install 'clftask[delta]'."
        raise ConfigError(Problem("output.format", "delta", "needs the package deltalake", remedy))
    problems = []
    for field in schema:
        if set(_NO_NAMES) & set(field.name):
            allowed = "must be a name without blanks and , ; { } ( ) = in a Delta table"
            remedy = f"{_REMEDY}, or output.layout: list if it is the column of a label."
            problems.append(Problem("output.format: column", field.name, allowed, remedy))
        elif not _has_type(field.type):
            allowed = f"{field.name} has the type {field.type}, which Delta tables do not have"
            remedy = f"{_REMEDY}, or convert the column."
            problems.append(Problem("output.format: column", field.name, allowed, remedy))
    if problems:
        raise ConfigError(*problems)


def _has_type(kind: pa.DataType) -> bool:
    """Tell whether a Delta table can have a type as Parquet stores it."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _has_type(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_has_type(field.type) for field in kind)
    if pa.types.is_map(kind):
        return _has_type(kind.key_type) and _has_type(kind.item_type)
    if pa.types.is_timestamp(kind):
        return kind.unit == "us" and kind.tz in (None, "UTC")
    if pa.types.is_decimal(kind):
        return bool(kind.precision <= 38 and kind.scale >= 0)
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_signed_integer,
        pa.types.is_float32,
        pa.types.is_float64,
        pa.types.is_boolean,
        pa.types.is_date32,
    )
    return any(test(kind) for test in tests)


def commit(output: str, parts: Sequence[PartEntry], fingerprint: str) -> int:
    """Make a score table's Delta log name these parts; return the version that does.

    Nothing is written if it does already: a repeated or concurrent call commits once. Parts that
    the log lacks are added in one transaction; the parts of a generation have a version of their
    own. If the log names other bytes of a part, as after it was scored again, or files that are
    no parts, or lost ones, the transaction replaces them. Parts of later generations stay.

    Args:
        output: The table.
        parts: All parts of the complete generations.
        fingerprint: That of the plan, kept in the log.

    Raises:
        JobError: The log cannot be read or written.
    """
    from deltalake.exceptions import DeltaError

    for attempt in range(MAX_TRIES):
        try:
            return _commit(output, parts, fingerprint)
        except DeltaError as error:  # another writer was first, unless the log is damaged
            if attempt == MAX_TRIES - 1:
                raise _failed(output, error) from None
        except OSError as error:  # of storage, after retries
            raise _failed(output, error) from None
    raise AssertionError


def _failed(output: str, error: Exception) -> JobError:
    place, reason = storage.join(output, DELTA_LOG), first_line(error)
    return JobError(Problem(place, None, f"cannot be written: {reason}", "Run the same job again."))


def _commit(output: str, parts: Sequence[PartEntry], fingerprint: str) -> int:
    from deltalake import CommitProperties, DeltaTable, Schema, Transaction

    options = store_options(output)
    stored = {f.path.rpartition("/")[2]: f for f in listing.list_files(output, recursive=False)}
    actions = _additions(stored, parts)
    schema = Schema.from_arrow(_schema(storage.join(output, parts[0].name)))
    # Of two writers that commit the same parts, the second one fails, and looks again.
    once = Transaction(f"clftask-{fingerprint}", len(parts))
    properties = CommitProperties({"clftask.plan": fingerprint}, app_transactions=[once])
    if not DeltaTable.is_deltatable(output, options):
        _create(output, schema, actions, properties)
    table = DeltaTable(output, storage_options=options)
    there = _files(table)
    new = [action for action in actions if there.get(action.path) != action.size]
    # Parts of a generation that this run does not know stay.
    kept = {action.path for action in actions} | {name for name in stored if _PART.fullmatch(name)}
    gone = [_removal(name) for name in sorted(there.keys() - kept)]
    if new or gone:
        table.create_write_transaction(
            [*new, *gone], "append", schema, commit_properties=properties
        )
        table.update_incremental()
    if not filesystems.is_url(output):
        local_disk.sync(storage.join(output, DELTA_LOG, f"{table.version():020}.json"))
    return int(table.version())


def _create(output: str, schema: Any, actions: list[Any], properties: Any) -> None:
    """Write the first version, unless there is one.

    deltalake 1.6 lets each of several writers create a table, as one version after the other. So
    it writes the version elsewhere.
    """
    from deltalake.transaction import create_table_with_add_actions

    first = f"{DELTA_LOG}/{0:020}.json"
    with temporary_folder() as folder:
        create_table_with_add_actions(folder, schema, actions, commit_properties=properties)
        storage.put_if_absent(storage.join(output, first), Path(folder, first).read_bytes())


def _files(table: Any) -> dict[str, int]:
    """Return the size of each file that a Delta table consists of."""
    found = pa.table(table.get_add_actions())
    return dict(zip(found["path"].to_pylist(), found["size_bytes"].to_pylist(), strict=True))


def _schema(part: str) -> pa.Schema:
    from pyarrow import parquet

    fs, inner = filesystems.filesystem(part)
    with translate_storage_errors(part):
        return parquet.read_schema(inner, filesystem=fs)


def _additions(stored: dict[str, listing.FileInfo], parts: Sequence[PartEntry]) -> list[Any]:
    from deltalake.transaction import AddAction

    return [
        AddAction(
            path=part.name,
            size=stored[part.name].size,
            partition_values={},
            modification_time=round(stored[part.name].mtime * 1000),
            data_change=True,
            stats=json.dumps({"numRecords": part.num_rows}),
        )
        for part in parts
    ]


def _removal(name: str) -> Any:
    from deltalake.transaction import RemoveAction

    return RemoveAction(name, True, round(time.time() * 1000))
