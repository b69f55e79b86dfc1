"""A table that two bundles score: the limit, the counts, resume, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cascades import noisy_copy, varied_texts
from pyarrow import parquet
from score_world import World

from clftask.commands.inspect import inspect
from clftask.components.decision.cascade import CascadeLimit
from clftask.config.score import ScoreJob
from clftask.errors import ConfigError
from clftask.estimate.measure import Workers
from clftask.estimate.score import estimate
from clftask.models import bundle
from clftask.models.cascade import Opener, as_one, fetch
from clftask.scoring import plan as planning
from clftask.scoring.cascade import agree
from clftask.scoring.manifest import Agreement, Precision
from clftask.scoring.sample import random_texts
from clftask.scoring.table_store import ScoreTableStore

NUM_ROWS = 200


class Cascade(World):
    """A cascade; `start` agrees as the first worker of a table does, and writes its plan."""

    def __init__(self, folder: Path, small: str, large: str, promised: float) -> None:
        super().__init__(folder, large)
        self.document["bundle"] = {"cascade": [small, large], "agreement": promised}
        self.folder = folder

    def start(self, **settings: Any) -> Agreement:
        job = ScoreJob.load(self.document | settings)
        (self.folder / "bundles").mkdir(exist_ok=True)
        found = fetch(job, str(self.folder / "bundles"))
        self.meta = as_one(job, [one.meta for one in found])
        planned = planning.plan(job, self.meta)
        assert not planned.plan.is_agreed
        agreed = agree(job, planned.plan, Opener("cpu"))
        plan = planned.plan.agreed(agreed.precision, agreed.cascade)
        planning.create(job, self.meta, planning.replace(planned, plan=plan))
        self.scorer = Opener("cpu").open_all(found, "fp32", agreed.cascade)
        return agreed


@pytest.fixture
def cascade(tmp_path: Path, make_bundle: Any) -> Cascade:
    large = make_bundle()
    small = noisy_copy(large, tmp_path / "small")
    found = Cascade(tmp_path, small, large, 0.8)
    found.write("a.parquet", NUM_ROWS, text=[*varied_texts(NUM_ROWS - 2), "", None])
    return found


def columns(table: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def test_a_table_of_both_bundles(cascade, tmp_path):
    """The promise holds on all rows; a run that was killed goes on with the same limit."""
    agreed = cascade.start(max_bad_rows=1)
    limit = agreed.cascade
    assert agreed.precision == Precision(asked="fp32", used="fp32")
    assert limit.limit is not None
    assert (limit.promised, limit.rows) == (0.8, 50)
    assert limit.at_least >= 0.8
    with pytest.raises(KeyboardInterrupt):
        cascade.run(stop_after=70, max_bad_rows=1)
    manifest = cascade.run(max_bad_rows=1)
    table = cascade.table()
    answered = table["answered_by"].to_pylist()
    by_small = answered.count("small")
    assert 0 < by_small < NUM_ROWS - 2
    counts = manifest.counts
    assert counts.answered_by == {"large": NUM_ROWS - 2 - by_small, "small": by_small}
    assert (counts.rows_scored, counts.rows_quarantined) == (NUM_ROWS - 2, 2)
    assert manifest.cascade == limit
    assert ScoreTableStore(str(cascade.output)).plan().cascade == limit

    (tmp_path / "other").mkdir()
    alone = World(tmp_path / "other", cascade.document["bundle"]["cascade"][1])
    alone.write("a.parquet", NUM_ROWS, text=[*varied_texts(NUM_ROWS - 2), "", None])
    alone.run(max_bad_rows=1)
    of_large = dict(columns(alone.table(), "id", "label"))
    rows = columns(table, "id", "label", "answered_by")
    assert all(label == of_large[key] for key, label, by in rows if by == "large")
    same = [label == of_large[key] for key, label, by in rows if by == "small"]
    assert 0.8 <= sum(same) / len(same) < 1.0
    assert "answered_by" not in alone.table().column_names

    told = inspect(str(cascade.output), verify=True)
    assert (told.state, told.cascade) == ("complete", str(limit))
    assert told.answered_by == counts.answered_by
    small, large = (json.loads((Path(path) / "clftask.json").read_text())["fingerprint"]
                    for path in cascade.document["bundle"]["cascade"])  # fmt: skip
    assert told.bundle == manifest.bundle == f"{small}+{large}"
    footer = parquet.read_schema(cascade.output / "part-00000.parquet").metadata
    assert json.loads(footer[b"clftask.bundle"]) == f"{small}+{large}"

    cascade.write("b.parquet", 30, first=NUM_ROWS, text=varied_texts(30, seed=5))
    growing = cascade.document["input"] | {"grow": True}
    grown = cascade.run(max_bad_rows=1, input=growing)
    assert (grown.num_generations, grown.cascade, grown.adds_up) == (2, limit, True)
    assert ScoreTableStore(str(cascade.output)).plan(2).cascade == limit
    assert sum(grown.counts.answered_by.values()) == NUM_ROWS - 2 + 30
    assert inspect(str(cascade.output), verify=True).state == "complete"


@pytest.mark.parametrize("layout", ["list", "top_k"])
def test_a_promise_that_no_limit_keeps_leaves_all_rows_to_the_large_bundle(cascade, layout):
    promise = {**cascade.document["bundle"], "agreement": 0.98}
    told = {"bundle": promise, "output": {"path": str(cascade.output), "layout": layout}}
    limit = cascade.start(max_bad_rows=1, **told).cascade
    assert limit == CascadeLimit(promised=0.98, rows=160)  # whatever the rows are: none is read
    assert "160 sampled rows are too few to tell" in str(limit)
    manifest = cascade.run(max_bad_rows=1, **told)
    assert manifest.counts.answered_by == {"large": NUM_ROWS - 2, "small": 0}
    assert set(cascade.table()["answered_by"].to_pylist()) == {"large"}


def test_a_restarted_cascade_keeps_its_promise(cascade):
    cascade.start(max_bad_rows=1)
    other = {**cascade.document["bundle"], "agreement": 0.9}
    with pytest.raises(ConfigError, match=r"bundle\.agreement: the existing table has 0\.8"):
        cascade.run(bundle=other)
    large = cascade.document["bundle"]["cascade"][1]
    cascade.meta = bundle.read_meta(large)
    with pytest.raises(ConfigError, match=r"bundle: the existing table has '\w+\+\w+'"):
        cascade.run(bundle=large)


def test_a_job_file_is_described_and_estimated(cascade, tmp_path):
    job = ScoreJob.load(cascade.document | {"max_bad_rows": 1})
    (tmp_path / "job.yaml").write_text(job.to_yaml())
    assert inspect(str(tmp_path / "job.yaml")).bundle == cascade.document["bundle"]
    cascade.meta = as_one(job, [bundle.read_meta(path) for path in job.bundles.values()])
    lines: list[str] = []
    planned = planning.plan(job, cascade.meta)
    found = estimate(job, cascade.meta, planned, Workers(1, 1.0), 0.0, lines.append)
    assert found.rows_left == NUM_ROWS
    assert any(line.startswith("cascade: the small bundle answers") for line in lines)
    assert not cascade.output.exists()


def test_a_kept_column_of_that_name_is_refused(cascade):
    cascade.write("a.parquet", 9, answered_by=["x"] * 9)
    keeping = {**cascade.document["input"], "keep": ["answered_by"]}
    with pytest.raises(ConfigError, match=r"input\.keep"):
        cascade.start(input=keeping)


# ------------------------------------------------------------------ the sample


def test_the_sample_is_of_all_usable_rows_each_once(tmp_path, tiny_bundle):
    world = World(tmp_path, tiny_bundle)
    world.write("a.parquet", 500, text=[f"text {i}" if i % 5 else " " for i in range(500)])
    job = ScoreJob.load(world.document | {"shard_rows": 70})
    plan, recipe = planning.plan(job, world.meta).plan, job.input.recipe(world.meta.text)
    text, pair = random_texts(plan, recipe, 10_000)
    usable = {f"text {i}" for i in range(500) if i % 5}
    assert pair is None
    assert sorted(text.to_pylist()) == sorted(usable)
    some, _ = random_texts(plan, recipe, 100)
    assert some.to_pylist() == text.to_pylist()[:100]
    places = [int(name.split()[1]) for name in some.to_pylist()]
    assert places != sorted(places)
    assert min(sum(100 * q <= place < 100 * (q + 1) for place in places) for q in range(5)) >= 10
