"""One precision per score table, chosen by a comparison with fp32."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from score_world import World
from toy_scorers import META, TEXTS, loud
from transformers import AutoTokenizer, FNetConfig, FNetForSequenceClassification

from clftask.config.score import ScoreJob
from clftask.errors import ConfigError, ModelError
from clftask.models import bundle
from clftask.models.cascade import Opener
from clftask.models.predictor import Scorer, load
from clftask.scoring import plan as planning
from clftask.scoring.cascade import agree
from clftask.scoring.manifest import Precision
from clftask.scoring.precision import sample_pieces
from clftask.scoring.table_store import ScoreTableStore


@pytest.fixture
def fast_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which bf16 is faster, whatever this one is."""
    monkeypatch.setattr("clftask.models.predictor.bf16_pays", lambda device: True)


@pytest.fixture(scope="module")
def fnet_bundle(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle whose Fourier transform bf16 lacks."""
    names = META.label_names
    config = FNetConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=1, intermediate_size=32,
        max_position_embeddings=64, num_labels=3, id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)}, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = loud(FNetForSequenceClassification(config))
    folder = tmp_path_factory.mktemp("fnet")
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    bundle.write(folder, model, tokenizer, META, {"per_label": {"validation": []}})
    return str(folder)


def agreed(world: World, **settings: Any) -> Precision:
    job = ScoreJob.load(world.document | settings)
    found = agree(job, planning.plan(job, world.meta).plan, Opener("cpu"))
    return found.precision


def test_bf16_that_decides_as_fp32_is_used(tmp_path, make_bundle, fast_bf16):
    world = World(tmp_path, make_bundle())
    world.write("a.parquet", 36, text=list(TEXTS) * 3)
    found = agreed(world, precision="auto")
    assert (found.asked, found.used, found.rows, found.reason) == ("auto", "bf16", 36, "")
    assert found.agreement == 1.0
    assert str(found) == "bf16; 100.0% of 36 sampled rows get the same labels as in fp32"


def test_bf16_that_decides_differently_is_not_used(tmp_path, make_bundle, fast_bf16, monkeypatch):
    world = World(tmp_path, make_bundle())
    world.write("a.parquet", 36, text=list(TEXTS) * 3)
    exact = Scorer.probabilities

    def other(self: Scorer, tokens: Any) -> Any:
        found = exact(self, tokens)
        if self.precision == "bf16":  # one row of 32: 34 of 36 agree
            found[::32] = np.roll(found[::32], 1, axis=1)
        return found

    monkeypatch.setattr(Scorer, "probabilities", other)
    found = agreed(world, precision="auto")
    assert (found.used, found.rows, found.agreement) == ("fp32", 36, 34 / 36)
    assert found.reason == "bf16 changes the labels of 2 of 36 sampled rows"
    found = agreed(world, precision="bf16")  # as requested, and compared
    assert (found.used, found.agreement) == ("bf16", 34 / 36)


def test_a_model_that_lacks_bf16_is_scored_in_fp32(tmp_path, fnet_bundle, fast_bf16):
    world = World(tmp_path, fnet_bundle)
    world.write("a.parquet", 12)
    found = agreed(world, precision="auto")
    assert (found.used, found.agreement) == ("fp32", None)
    assert "bf16 is not used: its model fails on cpu in bf16: RuntimeError" in found.reason
    with pytest.raises(ConfigError, match=r"^precision: .*Use precision: fp32\.") as caught:
        agreed(world, precision="bf16")
    assert caught.value.exit_code == 2


def test_logits_that_are_not_finite_are_not_used(tmp_path, make_bundle, fast_bf16, monkeypatch):
    """As those of T5 in fp16."""
    world = World(tmp_path, make_bundle())
    world.write("a.parquet", 12)
    exact = Scorer._try

    def overflowing(self: Scorer, inputs: Any) -> Any:
        found = exact(self, inputs)
        return found if self.precision == "fp32" else found * float("inf")

    monkeypatch.setattr(Scorer, "_try", overflowing)
    found = agreed(world, precision="auto")
    assert found.used == "fp32"
    assert "NaN or infinite logits" in found.reason


def test_without_a_usable_row_fp32_is_used(tmp_path, tiny_bundle, fast_bf16):
    world = World(tmp_path, tiny_bundle)
    world.write("a.parquet", 3, text=["", " ", ""])
    assert agreed(world, precision="auto") == Precision(asked="auto", used="fp32")


def test_the_sample_is_from_all_over_the_rows_that_match(tmp_path, tiny_bundle, fast_bf16):
    world = World(tmp_path, tiny_bundle)
    world.write("a.parquet", 500)
    job = ScoreJob.load(world.document | {"shard_rows": 5})
    plan = planning.plan(job, world.meta).plan
    pieces = list(sample_pieces(plan))
    assert len(pieces) == 32
    assert (pieces[0].start, pieces[-1].start) == (0, 495)
    keeping = {**world.document["input"], "where": "source = 0"}
    assert agreed(world, precision="auto", input=keeping, shard_rows=500).rows == 167


def test_the_first_rows_of_text_files_stand_for_them(tmp_path, tiny_bundle):
    world = World(tmp_path, tiny_bundle)
    rows = "".join(f"r{i},a tool,1\n" for i in range(100))
    (world.input / "a.csv").write_text("id,text,source\n" + rows)
    plan = planning.plan(ScoreJob.load(world.document), world.meta).plan
    assert [(p.start, p.num_rows) for p in sample_pieces(plan)] == [(0, 100)]


# ------------------------------------------------------------------ stored with the plan


def test_the_first_plan_decides_for_all_runs(tmp_path, tiny_bundle):
    world = World(tmp_path, tiny_bundle)
    world.write("a.parquet", 25)
    job = ScoreJob.load(world.document | {"precision": "auto"})
    first, second = (planning.plan(job, world.meta) for _ in range(2))
    fp32, bf16 = (Precision(asked="auto", used=used, agreement=1.0) for used in ("fp32", "bf16"))
    first, second = (
        planning.replace(planned, plan=planned.plan.agreed(precision))
        for planned, precision in ((first, bf16), (second, fp32))
    )
    assert first.plan.fingerprint != second.plan.fingerprint
    assert planning.create(job, world.meta, first).plan.precision == bf16
    assert planning.create(job, world.meta, second).plan.precision == bf16
    assert planning.plan(job, world.meta).plan.used_precision == "bf16"
    with pytest.raises(ConfigError, match="precision: the existing table has 'auto'"):
        world.run(precision="fp32")


def test_the_manifest_has_the_precision(tmp_path, tiny_bundle):
    world = World(tmp_path, tiny_bundle)
    world.write("a.parquet", 5)
    wanted = Precision(asked="fp32", used="fp32")
    assert world.run().precision == wanted
    assert ScoreTableStore(str(world.output)).plan().precision == wanted


# ------------------------------------------------------------------ models that fail


def test_load_computes_in_fp32(fnet_bundle, make_bundle, fast_bf16):
    assert load(fnet_bundle).precision == "fp32"
    assert load(fnet_bundle).predict(["a tool"]).probabilities.shape == (1, 3)
    with pytest.raises(ModelError, match=r"fails on cpu in bf16: RuntimeError.*Use precision fp32"):
        load(fnet_bundle, precision="bf16").predict(["a tool"])
    with pytest.raises(ConfigError, match="precision: must be fp32, bf16 or fp16"):
        load(fnet_bundle, precision="int8")
    assert load(make_bundle(), precision="auto").precision == "fp32"


def test_a_model_that_fails_ends_the_job_at_once_and_names_the_rows(tmp_path, tiny_bundle):
    world = World(tmp_path, tiny_bundle)
    path = world.write("a.parquet", 35)

    def broken(**inputs: Any) -> Any:
        raise IndexError("index out of range in self\nand a second line")

    world.scorer._forward = broken
    with pytest.raises(Exception, match="index out of range") as caught:
        world.run()
    text = str(caught.value)
    assert f"{path}, rows from 0: its model fails on cpu in fp32: IndexError: index out" in text
    assert "second line" not in text
    world.scorer._forward = lambda **inputs: SimpleNamespace(logits=torch.zeros(1, 3))
