"""Hostile tables: refused in bounded time, in words."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hostile_input import bounded, flipped, fuzzed, mutated, sound, train_job
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv as arrow_csv
from pyarrow import feather, ipc, parquet

from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.data.prepare import prepare
from clftask.errors import ConfigError
from clftask.models import bundle
from clftask.scoring import input
from clftask.scoring import input as score_input
from clftask.scoring import plan as planning


def scored(path: Path, meta: Any) -> None:
    """Plan a scoring job on a table and read its shards."""
    columns = {"text": "text", "id": "id", "keep": ["source"]}
    settings = {
        "input": {"path": str(path), **columns},
        "output": {"path": str(path.parent / "out")},
    }
    job = ScoreJob.load({"bundle": "/none", **settings, "shard_rows": 7})
    plan = planning.plan(job, meta).plan
    for shard in input.read_shards(plan, plan.shards, job.input.recipe(meta.text)):
        shard.table.validate(full=True)


FORMATS: dict[str, Callable[[pa.Table, Path], Any]] = {
    "a.parquet": lambda table, file: parquet.write_table(table, file),
    "b.parquet": lambda table, file: parquet.write_table(
        table, file, compression="none", use_dictionary=False
    ),
    "a.feather": lambda table, file: feather.write_feather(table, file, "uncompressed"),
    "a.csv": lambda table, file: arrow_csv.write_csv(table.drop_columns(["tags"]), file),
    "a.jsonl": lambda table, file: file.write_text(
        "".join(json.dumps(row) + "\n" for row in table.to_pylist())
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_table_is_read_or_refused(toy_table: Any, tiny_bundle: str, name: str) -> None:
    meta = bundle.read_meta(tiny_bundle)
    table = parquet.read_table(toy_table(30))
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, name)
        FORMATS[name](table, whole)
        data = whole.read_bytes()
        whole.unlink()
        (Path(folder) / "in").mkdir()
        file = Path(folder, "in", name)

        @fuzzed(30)
        @given(flipped(data))
        def check(damaged: bytes) -> None:
            file.write_bytes(damaged)
            sound(lambda: prepare(train_job(file)))
            sound(lambda: scored(file, meta))

        check()
        assert [p.name for p in Path(folder).iterdir()] == ["in"]


@pytest.mark.parametrize("opened", [ipc.new_stream, ipc.new_file])
def test_offsets_that_lead_out_of_memory_are_refused(
    toy_table: Any, tiny_bundle: str, tmp_path: Path, opened: Any
) -> None:
    """Arrow takes a file's word for where its strings are: reading them could end the process."""
    table = parquet.read_table(toy_table(30)).combine_chunks()
    text = table["text"].combine_chunks().cast(pa.string())
    sink = pa.BufferOutputStream()
    table = table.set_column(table.column_names.index("text"), "text", text)
    with opened(sink, table.schema) as writer:
        writer.write_table(table)
    data, ends = sink.getvalue().to_pybytes(), text.buffers()[1].to_pybytes()[4:]
    file = tmp_path / "a.arrow"
    file.write_bytes(data.replace(ends[:80], b"\xff\xff\xff\x3f" * 20))
    for call in (
        lambda: prepare(train_job(file)),
        lambda: scored(file, bundle.read_meta(tiny_bundle)),
    ):
        error = sound(call)
        assert error is not None
        assert "offset" in str(error).lower()


DEEP = 50_000
ROW = '{"id": "1", "text": "a b", "tags": ["a"], "source": "s", "z": %s}\n'
BIG_TABLES = {
    "deep lists.jsonl": (ROW % ("[" * DEEP + "]" * DEEP)).encode(),
    "deep objects.jsonl": (ROW % ('{"a":' * DEEP + "1" + "}" * DEEP)).encode(),
    "names.jsonl": "".join(f'{{"text": "a", "n{i}": 1}}\n' for i in range(12_000)).encode(),
    "blank.jsonl.gz": gzip.compress(b" " * (100 << 20)),
    "quotes.csv": b"id,text,label,source\n" + b'"' * (3 << 20),
    "returns.csv": b"id,text,label,source\n" + b"\r" * (3 << 20),
    "zeros.csv": bytes(3 << 20),
    "wide.csv": b",".join(b"c%d" % i for i in range(50_000)) + b"\n" + b"," * 49_999,
}


@pytest.mark.parametrize("name", BIG_TABLES)
def test_a_table_that_would_take_forever_is_refused(
    tiny_bundle: str, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    file.write_bytes(BIG_TABLES[name])
    with bounded():
        assert sound(lambda: prepare(train_job(file))) is not None
        assert sound(lambda: scored(file, bundle.read_meta(tiny_bundle))) is not None


def test_brackets_within_texts_are_not_deep(tiny_bundle: str, tmp_path: Path) -> None:
    row = {"id": "1", "text": "[{" * 5000 + '\\"', "tags": ["a"], "source": "s"}
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(row) + "\n")
    assert sound(lambda: scored(file, bundle.read_meta(tiny_bundle))) is None


def test_more_shards_than_can_be_listed_are_refused(
    tiny_bundle: str, toy_table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = {"bundle": tiny_bundle, "output": {"path": str(tmp_path / "out")}, "shard_rows": 1}
    document["input"] = {"path": str(toy_table(30)), "id": "id"}
    monkeypatch.setattr(score_input, "MAX_SHARDS", 29)
    with pytest.raises(ConfigError, match="shard_rows: makes more than 29 shards of 30 rows"):
        planning.plan(ScoreJob.load(document), bundle.read_meta(tiny_bundle))


PATTERNS = {"^(a+)+$": "aaaa", "(a|a)*!": "", "x*x*x*x*x*x*x*x*y": ""}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_takes_no_longer_than_its_columns(tmp_path: Path, pattern: str) -> None:
    names = ["a" * 40 + "!", "a" * 40, "aa", "x" * 5000]
    file = tmp_path / "wide.parquet"
    parquet.write_table(pa.table({"text": ["b"], **{name: [1] for name in names}}), file)
    job = {
        "task": "multilabel",
        "model": {"base": "/none"},
        "data": {"train": str(file), "text": "text"},
    }
    job["data"]["labels"] = {"kind": "indicators", "pattern": pattern}  # type: ignore[index]
    with bounded():
        sound(lambda: prepare(TrainJob.load(job)))


@pytest.mark.parametrize(
    "pattern", ["(", "(" * 5000, "a{2,1}", "((a{1000}){1000}){1000}", "(?!x)", r"\Z"]
)
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    labels = {"kind": "indicators", "pattern": pattern}
    document = {
        "task": "multilabel",
        "model": {"base": "/x"},
        "data": {"train": "x.csv", "text": "t"},
    }
    document["data"]["labels"] = labels  # type: ignore[index]
    error = sound(lambda: TrainJob.load(document))
    assert error is not None
    assert error.problems[0].path == "data.labels"


@fuzzed(20)
@given(st.data())
def test_a_damaged_dataset_is_read_or_refused(data: Any) -> None:
    import datasets

    rows = {"id": ["1", "2"], "text": ["a", "b"], "tags": [["x"], ["y"]], "source": ["s", "t"]}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "saved")
        datasets.disable_progress_bars()
        datasets.Dataset.from_dict({k: v * 8 for k, v in rows.items()}).save_to_disk(place)
        file = data.draw(st.sampled_from(sorted(place.iterdir())))
        if file.suffix == ".json" and data.draw(st.booleans()):
            file.write_text(json.dumps(data.draw(mutated([json.loads(file.read_text())]))))
        else:
            file.write_bytes(data.draw(flipped(file.read_bytes())))
        sound(lambda: prepare(train_job(place)))
