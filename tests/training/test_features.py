"""A frozen encoder runs once: the epochs give what they give when it runs in each of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_work import Recorder, run, weights, work_factory

from clftask.commands.evaluate import evaluate_bundle
from clftask.training import features
from clftask.training.work import Work


def base_of(folder: Path, tiny_base: Path, kind: str) -> Path:
    """Return a random base without dropout, with the tokenizer of the tiny one."""
    import torch
    from transformers import AutoConfig, AutoModel

    shutil.copytree(tiny_base, folder)
    sizes = {"vocab_size": 200, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 128}
    none = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    none |= dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), 0.0)
    none |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "d_model"), 0.0)
    none |= {"hidden_dim": 32, "d_model": 16, "pad_token_id": 0, "num_key_value_heads": 2}
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **sizes, **none))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def frozen_work(tmp_path: Path, toy_table: Any, tiny_base: Path) -> Any:
    """A function that makes the work of a job with a frozen encoder of some architecture."""

    def make(run: str, kind: str = "bert", head: Any = "linear", **fields: Any) -> Work:
        base = tmp_path / kind
        if not base.exists():
            base_of(base, tiny_base, kind)
        spec = {name: fields.pop(name) for name in ("long_text", "max_length") if name in fields}
        make = work_factory(tmp_path, toy_table(120), base)
        return make(run, head=head, model={"adapt": "head_only", **spec}, **fields)

    return make


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that runs a work with the encoder in each epoch."""

    def run_slowly(work: Work) -> Recorder:
        with monkeypatch.context() as patch:
            patch.setattr("clftask.training.trainer.features_of", lambda *_: None)
            return run(work)

    return run_slowly


def log_of(work: Work) -> str:
    return Path(work.run, "log.txt").read_text()


MLP = {"kind": "mlp", "hidden": 16, "dropout": 0}
WINDOWS = {"long_text": {"kind": "windows"}, "max_length": 8}


@pytest.mark.parametrize(
    ("kind", "head", "model", "inputs"),
    [
        ("bert", "linear", {}, 108),
        ("bert", MLP, WINDOWS, 216),
        ("distilbert", "linear", {}, 108),
        ("roberta", "linear", {}, 108),
        ("gpt2", "linear", {}, 108),
        ("llama", "linear", {}, 108),
    ],
)
def test_the_epochs_are_those_of_the_slow_way(frozen_work, slowly, kind, head, model, inputs):
    fast, slow = (frozen_work(name, kind, head, **model, epochs=2) for name in ("fast", "slow"))
    found, expected = run(fast), slowly(slow)
    once = f" the frozen encoder ran once over {inputs} model inputs, without dropout; "
    assert once in log_of(fast)
    assert found.losses() == pytest.approx(expected.losses(), abs=1e-5)
    for metrics, others in zip(found.evaluations(), expected.evaluations(), strict=True):
        assert metrics["eval_loss"] == pytest.approx(others["eval_loss"], abs=1e-5)
    for split in ("validation", "test"):
        loss = expected.done["metrics"][split]["loss"]
        assert found.done["metrics"][split]["loss"] == pytest.approx(loss, abs=1e-5)
    after, before = weights(fast.run), weights(slow.run)
    assert after.keys() == before.keys()
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=1e-4)


def test_the_bundle_has_the_figures_of_bf16_training(train_bundle, tmp_path):
    """The features are those of bf16; the figures of the bundle are fp32, by the whole model."""
    overrides = "model.adapt=head_only", "training.precision=bf16"
    folder, test, outcome = train_bundle(tmp_path, "multiclass", *overrides)
    assert "the frozen encoder ran once" in (tmp_path / "run" / "log.txt").read_text()
    stored = dict(outcome["metrics"]["test"])
    stored.pop("loss")
    found = evaluate_bundle(str(folder), str(test), lambda line: None)
    assert found.metrics == pytest.approx(stored, abs=1e-5)


def test_an_encoder_in_bf16_runs_once_too(frozen_work):
    bf16 = {"precision": "bf16", "weights": "bf16"}
    work, whole = frozen_work("rounded", **bf16), frozen_work("fp32", precision="bf16")
    found, expected = run(work), run(whole)
    assert "the frozen encoder ran once over 108 model inputs" in log_of(work)
    assert found.losses() == pytest.approx(expected.losses(), rel=0.02)
    name = "bert.embeddings.word_embeddings.weight"
    np.testing.assert_array_equal(weights(work.run)[name], weights(whole.run)[name])


def test_a_killed_run_resumes_with_the_same_result(frozen_work):
    whole, killed = frozen_work("whole", epochs=6), frozen_work("killed", epochs=6)
    expected = run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(killed, Recorder(fail_at=20))
    for file in Path(killed.run, "checkpoints").rglob("model.safetensors"):
        assert file.stat().st_size < 5_000, "the encoder is in the checkpoint"
    resumed = run(killed)
    assert min(resumed.losses()) > 6, "it began anew"
    assert log_of(killed).count("the frozen encoder ran once") == 2
    after, before = weights(killed.run), weights(whole.run)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=1e-6)
    assert resumed.done["metrics"] == expected.done["metrics"]


@pytest.mark.parametrize(
    ("kind", "limit", "reason"),
    [
        ("albert", 2**32, "the head does not read the state of the first or last token, or "),
        ("bert", 108 * 16 * 4 - 1, "its features need 0.0 GiB per worker, more than "),
    ],
)
def test_other_models_run_in_each_epoch(frozen_work, monkeypatch, kind, limit, reason):
    monkeypatch.setattr(features, "MAX_BYTES", limit)
    work = frozen_work("run", kind, epochs=2)
    first, last = run(work).evaluations()
    assert f" the frozen encoder runs in each epoch: {reason}" in log_of(work)
    assert last["eval_loss"] < first["eval_loss"]


def test_compiling_the_layers_is_left_out(frozen_work):
    work = frozen_work("run", epochs=1, compile=True)
    run(work)
    assert " training.compile has no effect: the encoder runs only once\n" in log_of(work)
