"""Hostile score tables, run folders and texts on a terminal."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hostile_input import (
    CONFIGS,
    DOCUMENTS,
    META,
    edit,
    flipped,
    fuzzed,
    mutated,
    run,
    sealed,
    sound,
)
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from score_world import World

import clftask
from clftask.commands.compare_tables import compare_tables
from clftask.commands.inspect import inspect
from clftask.config.score import ScoreJob
from clftask.errors import DataError, JobError
from clftask.models import bundle
from clftask.scoring import plan as planning

# ------------------------------------------------------------------ score tables and run folders


@pytest.fixture(scope="module")
def table(tiny_bundle: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole score table, whose input lies beside it."""
    folder = tmp_path_factory.mktemp("table")
    world = World(folder, tiny_bundle)
    world.write("a.parquet", 35, text=["a tool"] * 9 + [None] + ["a tool"] * 25)
    world.run(max_bad_rows=0.1)
    (folder / "job.json").write_text(json.dumps(world.document))
    return folder


def look(folder: Path) -> None:
    document = json.loads((folder / "job.json").read_text())
    place = str(folder / "out")
    sound(lambda: inspect(place))
    sound(lambda: inspect(place, verify=True))
    sound(lambda: compare_tables(place, place, []))
    job = ScoreJob.load(document | {"output": {"path": place}})
    sound(lambda: planning.plan(job, bundle.read_meta(document["bundle"])))


FILES = ["_plan.json", "_manifest.json", "_receipts/part-00001.json", "part-00001.parquet"]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_score_table_is_read_or_refused(table: Path, name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(table, Path(place, "table")))
        file = folder / "out" / name
        whole = file.read_bytes()
        damaged = flipped(whole)
        if name.endswith(".json"):
            damaged |= mutated([json.loads(whole)]).map(lambda data: json.dumps(data).encode())

        @fuzzed(20)
        @given(damaged)
        def check(data: bytes) -> None:
            file.write_bytes(data)
            look(folder)

        check()
        assert [p.name for p in Path(place).iterdir()] == ["table"]


def test_a_plan_whose_id_is_no_name_is_refused(table: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(table / "out", tmp_path / "out"))
    plan = json.loads((folder / "_plan.json").read_text())
    plan["settings"]["input.id"] = {"a": 1}
    (folder / "_plan.json").write_text(json.dumps(plan))
    with pytest.raises(DataError, match=r"an invalid input\.id"):
        compare_tables(str(folder), str(folder), [])


def test_a_manifest_names_only_its_own_parts(table: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(table / "out", tmp_path / "out"))
    manifest = json.loads((folder / "_manifest.json").read_text())
    manifest["parts"][0]["name"] = "../in/a.parquet"
    (folder / "_manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"_manifest\.json: is damaged"):
        compare_tables(str(folder), str(folder), [])


TRIAL = {
    "number": 0,
    "picks": {"training.learning_rate": 0.1},
    "params": {"training.learning_rate": 0.1},
    "seed": 42,
    "state": "finished",
    "evaluations": [{"epoch": 1, "step": 3, "seconds": 1.0, "metrics": {"micro_f1": 0.5}}],
}


SEARCH = next(
    document for document in DOCUMENTS if "space" in document and isinstance(document["train"], str)
)


RECORD = {"step": 3, "loss": 0.5}


@pytest.mark.slow
@fuzzed(60)
@given(
    name=st.sampled_from(["job.yaml", "metrics.jsonl", "search.yaml", "trials/0000/trial.json"]),
    data=st.data(),
)
def test_a_mutated_run_folder_is_read_or_refused(name: str, data: Any) -> None:
    train = DOCUMENTS[0]
    contents = {"job.yaml": train, "metrics.jsonl": RECORD}
    if name.startswith(("search", "trials")):
        contents |= {"search.yaml": {**SEARCH, "train": train}, "trials/0000/trial.json": TRIAL}
    with tempfile.TemporaryDirectory() as folder:
        for path, content in contents.items():
            new = data.draw(mutated([content])) if path == name else content
            text = json.dumps(new).encode()
            file = Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data.draw(st.just(text) | flipped(text)) if path == name else text)
        run("inspect", folder)


def test_a_search_file_that_is_a_path_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(str(CONFIGS[0]))
    assert "a job file must be a mapping" in run("inspect", tmp_path)[1]


# ------------------------------------------------------------------ the terminal


def test_names_steer_no_terminal(tiny_bundle: str, tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07\x1b[31mred\u202e[/bold][red]"
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    edit(META, label_names=[evil, "b", "c"], metrics={evil: {evil: 0.5}}, versions={evil: evil})(
        folder
    )
    edit(META, job__data__labels__column="tags")(folder)
    sealed(folder)
    columns = {"id": ["1"], "text": ["a b"], "tags": [[evil]], "source": ["s"], evil: [1]}
    parquet.write_table(pa.table(columns), tmp_path / "table.parquet")
    parquet.write_table(pa.table({evil: [1]}), tmp_path / "others.parquet")
    said = [
        run("inspect", folder),
        run("evaluate", folder, tmp_path / "table.parquet"),
        run("evaluate", folder, tmp_path / "others.parquet"),
        run("evaluate", folder, tmp_path / f"{evil}.csv"),
        run("inspect", folder, "--json"),
    ]
    assert [code for code, _ in said] == [0, 0, 2, 2, 0]
    for _, output in said:
        assert not set(output) & set("\x1b\x07\x9b\u202e")
    assert "\\x1b[31mred\\u202e[/bold]" in said[2][1]


def test_names_of_megabytes_are_cut(tiny_bundle: str, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x" * (1 << 20): [1]}), tmp_path / "a.parquet")
    code, output = run("evaluate", tiny_bundle, tmp_path / "a.parquet")
    assert code == 2
    assert len(output) < 30_000


def test_a_bad_row_in_a_message_is_of_one_line() -> None:
    error = JobError(clftask.errors.Problem("a\nerror: b", "c\nd", "e\rf"))
    assert str(error) == "a\\nerror: b: e\\rf (found 'c\\nd')."
