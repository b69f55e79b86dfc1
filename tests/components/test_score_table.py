"""The score table: columns, layouts, and a part that other tools read as it is."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import parquet
from pydantic import TypeAdapter

from clftask.components.score_table import (
    Layout,
    Lists,
    ScoreColumns,
    TopK,
    Wide,
    checksum,
    read_footer,
    why_unfit,
    write_part,
)
from clftask.errors import ConfigError, Problem
from clftask.spec import Spec

NAMES = ("b", "a", "role::x y")
LAYOUTS = [Wide(), Lists(), TopK(k=2)]
STRINGS, FLOATS = pa.list_(pa.string()), pa.list_(pa.float32())
# Quarters and eighths are exact in float32.
P = np.array([[0.25, 0.5, 0.125], [0.75, 0.875, 1.0], [0.0, 0.25, 0.25]], np.float32)
GIVEN = {
    "multiclass": [[False, True, False], [False, False, True], [False, True, False]],
    "multilabel": [[False, False, False], [True, True, True], [True, False, True]],
}
ORIGIN = pa.table({"id": ["r0", "r1", "r2"], "source": pa.array([1, None, 3], pa.int16())})


def scored(layout: Layout, task: Any = "multilabel", rows: int = 3, origin: pa.Table = ORIGIN):
    columns = ScoreColumns(task, NAMES, layout)
    decided = np.array(GIVEN[task])
    return columns.table(origin.slice(0, rows), P[:rows], decided[:rows])


def types(table: pa.Table) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in table.schema}


# ------------------------------------------------------------------ what every layout has


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.kind)
def test_a_class_and_its_probability(layout):
    table = scored(layout, "multiclass")
    assert table.column_names[:4] == ["id", "source", "label", "confidence"]
    assert table["label"].to_pylist() == ["a", "role::x y", "a"]
    assert table["confidence"].to_pylist() == [0.5, 1.0, 0.25]
    assert (types(table)["label"], types(table)["confidence"]) == (pa.string(), pa.float32())


def test_a_row_that_the_bundle_abstains_on_has_no_label():
    decided = np.array([[False, True, False], [False, False, False], [True, False, False]])
    table = ScoreColumns("multiclass", NAMES, Wide()).table(ORIGIN, P, decided)
    assert table["label"].to_pylist() == ["a", None, "b"]
    assert table["confidence"].to_pylist() == [0.5, 1.0, 0.25]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.kind)
def test_prediction_sets_stand_beside_the_confidence(layout):
    columns = ScoreColumns("multiclass", NAMES, layout, has_sets=True)
    sets = np.array([[True, True, False], [False, False, False], [False, False, True]])
    table = columns.table(ORIGIN, P, np.array(GIVEN["multiclass"]), sets)
    assert table.column_names[2:5] == ["label", "confidence", "label_set"]
    assert table["label_set"].to_pylist() == [["b", "a"], [], ["role::x y"]]
    assert table.schema == columns.schema(list(ORIGIN.schema))
    with pytest.raises(ConfigError, match="label_set"):
        columns.schema([pa.field("Label_Set", pa.string())])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.kind)
def test_labels_in_bundle_order_or_none(layout):
    table = scored(layout, "multilabel")
    assert table.column_names[:4] == ["id", "source", "labels", "confidence"]
    assert table["labels"].to_pylist() == [[], ["b", "a", "role::x y"], ["b", "role::x y"]]
    assert table["confidence"].to_pylist() == [0.5, 1.0, 0.25]
    assert (types(table)["labels"], types(table)["confidence"]) == (STRINGS, pa.float32())
    assert scored(layout, "multilabel", rows=1)["labels"].to_pylist() == [[]]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.kind)
def test_no_row_has_the_same_columns(layout, task):
    whole, empty = scored(layout, task), scored(layout, task, rows=0)
    assert empty.num_rows == 0
    assert empty.schema == whole.schema
    again = parquet.read_table(pa.BufferReader(write_part(empty, {})))
    assert again.schema.remove_metadata() == whole.schema.remove_metadata()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.kind)
def test_the_schema_is_that_of_the_table(layout):
    columns = ScoreColumns("multiclass", NAMES, layout)
    table = scored(layout, "multiclass")
    assert columns.schema(list(ORIGIN.schema)) == table.schema
    table.validate(full=True)


# ------------------------------------------------------------------ layouts


def test_wide_has_a_float_column_for_each_label():
    table = scored(Wide())
    assert table.column_names[4:] == ["p_b", "p_a", "p_role::x y"]
    assert {types(table)[name] for name in table.column_names[4:]} == {pa.float32()}
    assert table["p_b"].to_pylist() == [0.25, 0.75, 0.0]
    assert table["p_a"].to_pylist() == [0.5, 0.875, 0.25]
    assert table["p_role::x y"].to_pylist() == [0.125, 1.0, 0.25]


def test_list_has_all_probabilities_in_one_column():
    table = scored(Lists())
    assert table.column_names[4:] == ["p"]
    assert types(table)["p"] == FLOATS
    assert table["p"].to_pylist() == [[0.25, 0.5, 0.125], [0.75, 0.875, 1.0], [0.0, 0.25, 0.25]]


def test_top_k_has_the_best_first_and_of_equal_ones_the_first():
    table = scored(TopK(k=2))
    assert table.column_names[4:] == ["top_labels", "top_p"]
    assert (types(table)["top_labels"], types(table)["top_p"]) == (STRINGS, FLOATS)
    assert table["top_labels"].to_pylist() == [["a", "b"], ["role::x y", "a"], ["a", "role::x y"]]
    assert table["top_p"].to_pylist() == [[0.5, 0.25], [1.0, 0.875], [0.25, 0.25]]


def test_top_k_of_many_equal_ones_keeps_the_order_of_the_bundle():
    names = [f"l{i}" for i in range(200)]
    labels, values = TopK(k=60).columns(np.tile(np.float32([0.25, 0.5]), (1, 100)), names)
    assert labels.to_pylist() == [[f"l{i}" for i in range(1, 120, 2)]]
    assert values.to_pylist() == [[0.5] * 60]


def test_top_k_beyond_the_labels_gives_them_all():
    labels, values = TopK(k=5).columns(P, NAMES)
    assert labels.to_pylist()[0] == ["a", "b", "role::x y"]
    assert values.to_pylist()[0] == [0.5, 0.25, 0.125]


def test_probabilities_that_are_columns_of_something_larger():
    """Of another memory layout: transposed, and every other row."""
    turned = np.asfortranarray(np.repeat(P, 2, axis=0))[::2]
    decided = np.array(GIVEN["multilabel"])
    for layout in LAYOUTS:
        found = ScoreColumns("multilabel", NAMES, layout).table(ORIGIN, turned, decided)
        assert found == scored(layout)


class _Output(Spec):
    layout: Layout = Wide()


@pytest.mark.parametrize(
    ("written", "layout"),
    [
        ("wide", Wide()),
        ("list", Lists()),
        ("top_k", TopK(k=5)),
        ({"kind": "top_k", "k": 3}, TopK(k=3)),
    ],
)
def test_layouts_are_named_in_a_job(written, layout):
    assert _Output.load({"layout": written}).layout == layout
    assert _Output.load({}).layout == Wide()
    assert TypeAdapter(Layout).validate_python(layout.dump()) == layout


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ({"kind": "top_k", "k": 0}, "layout.k"),
        ({"kind": "wide", "k": 3}, "layout.k"),
        ("long", "layout.kind"),
    ],
)
def test_other_layouts_are_refused(written, path):
    with pytest.raises(ConfigError) as caught:
        _Output.load({"layout": written})
    assert [problem.path for problem in caught.value.problems] == [path]


# ------------------------------------------------------------------ where a row is from


KEPT = {
    "small": pa.array([1, None, 3], pa.int8()),
    "when": pa.array([0, 1, None], pa.timestamp("us", "UTC")),
    "day": pa.array([0, 1, 2], pa.date32()),
    "price": pa.array([Decimal("1.50"), None, Decimal("2.25")], pa.decimal128(9, 2)),
    "flag": pa.array([True, None, False]),
    "raw": pa.array([b"\xff", b"", None], pa.binary()),
    "tags": pa.array([["x"], [], None], STRINGS),
    "nested": pa.array([{"a": 1}, {"a": None}, None], pa.struct([("a", pa.int32())])),
    "kind": pa.array(["u", "v", "u"]).dictionary_encode(),
    "text": pa.array(["p", None, "q"], pa.large_string()),
    "void": pa.nulls(3),
}


def test_kept_columns_keep_types_and_values():
    origin = pa.table({"id": ["r0", "r1", "r2"], **KEPT})
    table = scored(Wide(), origin=origin)
    assert table.column_names[: 1 + len(KEPT)] == ["id", *KEPT]
    again = parquet.read_table(pa.BufferReader(write_part(table, {})))
    assert {name: again.schema.field(name).type for name in KEPT} == {
        name: array.type for name, array in KEPT.items()
    }
    assert again.select(list(KEPT)).to_pylist() == pa.table(KEPT).to_pylist()


def test_without_an_id_file_and_row_say_which():
    origin = pa.table({"_file": ["a.csv"] * 3, "_row": pa.array([7, 8, 9], pa.int64())})
    table = scored(Lists(), origin=origin)
    assert table.column_names == ["_file", "_row", "labels", "confidence", "p"]
    assert table.select(["_file", "_row"]) == origin


def test_origin_in_chunks():
    origin = pa.concat_tables([ORIGIN.slice(0, 1), ORIGIN.slice(1)])
    assert origin["id"].num_chunks == 2
    assert scored(TopK(k=1), origin=origin) == scored(TopK(k=1))


# ------------------------------------------------------------------ names that collide


def refusal(layout: Layout, origin: list[str], task: Any = "multilabel", names=NAMES) -> Problem:
    columns = ScoreColumns(task, tuple(names), layout)
    with pytest.raises(ConfigError) as caught:
        columns.schema([pa.field(name, pa.string()) for name in origin])
    (problem,) = caught.value.problems
    assert caught.value.exit_code == 2
    assert "column names that are equal or differ only by case" in problem.allowed
    return problem


@pytest.mark.parametrize(
    ("layout", "origin", "found"),
    [
        (Lists(), ["id", "labels"], ["labels", "labels"]),
        (Lists(), ["id", "Labels"], ["Labels", "labels"]),
        (Lists(), ["id", "CONFIDENCE"], ["CONFIDENCE", "confidence"]),
        (Lists(), ["id", "P"], ["P", "p"]),
        (TopK(), ["id", "top_p"], ["top_p", "top_p"]),
        (Wide(), ["id", "p_a"], ["p_a", "p_a"]),
        (Wide(), ["id", "P_A", "p_z"], ["P_A", "p_a"]),
        (Wide(), ["id", "url", "URL"], ["url", "URL"]),
        (Wide(), ["Id", "id"], ["Id", "id"]),
    ],
)
def test_kept_columns_that_collide_are_refused(layout, origin, found):
    problem = refusal(layout, origin)
    assert (problem.path, problem.value) == ("input.keep", found)
    assert problem.remedy == "Rename it."


def test_only_the_columns_of_the_task_collide():
    names = ["id", "label", "top_p", "p"]
    fields = [pa.field(name, pa.string()) for name in names]
    found = ScoreColumns("multilabel", NAMES, Wide()).schema(fields)
    assert found.names == [*names, "labels", "confidence", "p_b", "p_a", "p_role::x y"]
    assert refusal(Wide(), names, "multiclass").value == ["label", "label"]


def test_labels_that_differ_by_case_are_refused_where_they_are_columns():
    names = ("rust", "Go", "RUST", "go", "c")
    problem = refusal(Wide(), ["id"], names=names)
    assert problem.path == "output.layout"
    assert problem.value == ["p_rust", "p_Go", "p_RUST", "p_go"]
    assert problem.remedy == "Use list or top_k."
    for layout in (Lists(), TopK()):
        fields = ScoreColumns("multilabel", names, layout).schema([pa.field("id", pa.string())])
        assert fields.names[:3] == ["id", "labels", "confidence"]


# ------------------------------------------------------------------ a part


METADATA = {
    "clftask.bundle": "0123456789abcdef",
    "clftask.task": "multilabel",
    "clftask.label_names": ["b", "ä", "Größe\n"],
    "clftask.counts": {"rows_in": 3, "labels": {"b": 2}},
}


def test_a_part_gives_back_table_and_metadata():
    table = scored(Wide())
    data = write_part(table, METADATA)
    assert read_footer(data) == {**METADATA, "clftask.schema_version": 1}
    assert parquet.read_table(pa.BufferReader(data)).equals(table)
    assert checksum(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_same_rows_give_the_same_bytes():
    assert write_part(scored(Wide()), METADATA) == write_part(scored(Wide()), METADATA)


def test_a_foreign_parquet_has_no_footer_of_ours():
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table({"x": [1]}), sink)
    assert read_footer(sink.getvalue().to_pybytes()) == {}
    with pytest.raises(pa.ArrowInvalid):
        read_footer(b"PAR1 no parquet")


@pytest.mark.parametrize("table", ["the corpus", "its scores"])
def test_a_part_says_nothing_of_pandas_or_ray(table):
    frame = pd.DataFrame({"id": ["r0", "r1", "r2"]}, index=[5, 6, 7])
    origin = pa.Table.from_pandas(frame)
    assert b"pandas" in origin.schema.metadata
    written = origin if table == "the corpus" else scored(Wide(), origin=origin)
    data = write_part(written, {"clftask.task": "multilabel"})
    found = parquet.read_metadata(pa.BufferReader(data)).metadata
    assert set(found) == {b"ARROW:schema", b"clftask.task", b"clftask.schema_version"}
    fields = parquet.read_schema(pa.BufferReader(data))
    assert not any(isinstance(field.type, pa.ExtensionType) for field in fields)


def columns_of(data: bytes) -> dict[str, Any]:
    group = parquet.read_metadata(pa.BufferReader(data)).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    return {column.path_in_schema: column for column in columns}


def test_columns_are_compressed_and_have_statistics():
    found = columns_of(write_part(scored(Wide(), "multiclass"), {}))
    assert list(found) == ["id", "source", "label", "confidence", "p_b", "p_a", "p_role::x y"]
    assert {column.compression for column in found.values()} == {"ZSTD"}
    limits = {n: (c.statistics.min, c.statistics.max) for n, c in found.items()}
    assert limits["p_a"] == (0.25, 0.875)
    assert limits["confidence"] == (0.25, 1.0)
    assert limits["label"] == ("a", "role::x y")
    assert found["source"].statistics.null_count == 1


def test_names_are_stored_once_and_probabilities_as_they_are():
    wide, top = (columns_of(write_part(scored(layout), {})) for layout in (Wide(), TopK()))
    listed = columns_of(write_part(scored(Lists()), {}))
    for column in (wide["labels.list.element"], wide["id"], top["top_labels.list.element"]):
        assert "RLE_DICTIONARY" in column.encodings
    for column in (wide["p_a"], listed["p.list.element"]):
        assert "RLE_DICTIONARY" not in column.encodings


def test_large_parts_have_row_groups():
    rows = 50_001
    origin = pa.table({"id": pa.array(range(rows), pa.int32())})
    columns = ScoreColumns("multiclass", ("x",), Lists())
    table = columns.table(origin, np.ones((rows, 1), np.float32), np.ones((rows, 1), bool))
    found = parquet.read_metadata(pa.BufferReader(write_part(table, {})))
    assert [found.row_group(i).num_rows for i in range(found.num_row_groups)] == [50_000, 1]


# ------------------------------------------------------------------ other readers


@pytest.fixture(params=LAYOUTS, ids=lambda layout: layout.kind)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """Two parts, and beside them plan and manifest, which no reader of `part-*.parquet` minds."""
    for number, start in enumerate((0, 2)):
        table = scored(request.param).slice(start, 2)
        data = write_part(table, METADATA)
        (tmp_path / f"part-{number:05d}.parquet").write_bytes(data)
    (tmp_path / "_plan.json").write_text("{}")
    return request.param.kind, tmp_path


IDS = ["r0", "r1", "r2"]
GIVEN_NAMES = [[], ["b", "a", "role::x y"], ["b", "role::x y"]]
SCORES = {
    "wide": {"p_b": [0.25, 0.75, 0.0], "p_a": [0.5, 0.875, 0.25], "p_role::x y": [0.125, 1, 0.25]},
    "list": {"p": [[0.25, 0.5, 0.125], [0.75, 0.875, 1.0], [0.0, 0.25, 0.25]]},
    "top_k": {
        "top_labels": [["a", "b"], ["role::x y", "a"], ["a", "role::x y"]],
        "top_p": [[0.5, 0.25], [1.0, 0.875], [0.25, 0.25]],
    },
}


def test_pandas_reads_parts(folder):
    kind, path = folder
    frame = pd.concat([pd.read_parquet(part) for part in sorted(path.glob("part-*.parquet"))])
    assert list(frame) == ["id", "source", "labels", "confidence", *SCORES[kind]]
    assert frame["id"].tolist() == IDS
    assert [list(labels) for labels in frame["labels"]] == GIVEN_NAMES
    assert str(frame["confidence"].dtype) == "float32"
    plain = {n: [v if np.isscalar(v) else list(v) for v in frame[n]] for n in SCORES[kind]}
    assert plain == SCORES[kind]


SQL_TYPES = {
    "wide": ["FLOAT", "FLOAT", "FLOAT"],
    "list": ["FLOAT[]"],
    "top_k": ["VARCHAR[]", "FLOAT[]"],
}


def test_duckdb_reads_parts(folder):
    kind, path = folder
    found = duckdb.sql(f"SELECT * FROM '{path}/part-*.parquet' ORDER BY id")
    assert found.columns == ["id", "source", "labels", "confidence", *SCORES[kind]]
    expected = ["VARCHAR", "SMALLINT", "VARCHAR[]", "FLOAT", *SQL_TYPES[kind]]
    assert [str(found_type) for found_type in found.types] == expected
    columns = dict(zip(found.columns, zip(*found.fetchall(), strict=True), strict=True))
    assert list(columns["id"]) == IDS
    assert list(columns["labels"]) == GIVEN_NAMES
    assert {name: list(columns[name]) for name in SCORES[kind]} == SCORES[kind]
    tagged = duckdb.sql(
        f"SELECT id FROM '{path}/part-*.parquet' WHERE list_contains(labels, 'b') ORDER BY id"
    )
    assert tagged.fetchall() == [("r1",), ("r2",)]


def test_polars_reads_parts(folder):
    kind, path = folder
    frame = pl.read_parquet(path / "part-*.parquet")
    assert frame.columns == ["id", "source", "labels", "confidence", *SCORES[kind]]
    assert frame.schema["labels"] == pl.List(pl.String)
    assert frame.schema["source"] == pl.Int16
    assert frame.schema["confidence"] == pl.Float32
    last = {"wide": pl.Float32, "list": pl.List(pl.Float32), "top_k": pl.List(pl.Float32)}
    assert frame.schema[frame.columns[-1]] == last[kind]
    found = frame.to_dict(as_series=False)
    assert (found["id"], found["labels"]) == (IDS, GIVEN_NAMES)
    assert {name: found[name] for name in SCORES[kind]} == SCORES[kind]


UNFIT = {
    "decimals of more than 38 digits, which DuckDB rounds": [
        pa.decimal256(39, 2),
        pa.struct([("a", pa.list_(pa.decimal256(76, 0)))]),
    ],
    "list views, which Polars does not read": [
        pa.list_view(pa.string()),
        pa.large_list_view(pa.string()),
        pa.list_(pa.list_view(pa.int8())),
        pa.map_(pa.string(), pa.list_view(pa.int8())),
    ],
    "lists of the fixed size 0, which no reader supports": [pa.list_(pa.int8(), 0)],
    "a type that Parquet does not support: ": [
        pa.struct([]),
        pa.month_day_nano_interval(),
        pa.decimal128(5, -2),
        pa.run_end_encoded(pa.int32(), pa.string()),
        pa.list_(pa.dense_union([pa.field("a", pa.int8())])),
    ],
}


@pytest.mark.parametrize(
    ("kind", "why"), [(kind, why) for why, kinds in UNFIT.items() for kind in kinds], ids=str
)
def test_columns_that_other_tools_do_not_read_are_unfit(kind, why):
    found = why_unfit(pa.field("kept", kind))
    assert found is not None
    assert found.startswith(why)


FIT = [
    pa.array([Decimal("1.25"), None], pa.decimal256(38, 2)),
    pa.array([Decimal("1.25"), None], pa.decimal64(18, 2)),
    pa.array([[1, 2], None], pa.list_(pa.int8(), 2)),
    pa.array([["a"], None], pa.large_list(pa.large_string())),
    pa.array([{"a": [{"b": None}]}, None], pa.struct({"a": pa.list_(pa.struct({"b": pa.null()}))})),
    pa.array([1.5, None], pa.float16()),
    pa.array([1 << 63, None], pa.uint64()),
    pa.array([b"ab", None], pa.binary(2)),
]


@pytest.mark.parametrize("values", FIT, ids=lambda values: str(values.type))
def test_columns_that_are_fit_are_read_back_as_they_were(tmp_path, values):
    assert why_unfit(pa.field("kept", values.type)) is None
    path = tmp_path / "part.parquet"
    path.write_bytes(write_part(pa.table({"kept": values}), {}))
    wanted = values.to_pylist()
    assert pl.read_parquet(path)["kept"].to_list() == wanted
    rows = duckdb.sql(f"SELECT kept FROM '{path}'").fetchall()
    assert [list(v) if isinstance(v, tuple) else v for (v,) in rows] == wanted
