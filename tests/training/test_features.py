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
from clftask.training.inference import Inference
from clftask.training.work import Work

RAN_ONCE = "the frozen encoder ran once over 108 texts, without dropout; the epochs train the head"


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

    def make(run: str, kind: str = "bert", head: Any = "linear", **model: Any) -> Work:
        base = tmp_path / kind
        if not base.exists():
            base_of(base, tiny_base, kind)
        training = model.pop("training", {})
        make = work_factory(tmp_path, toy_table(120), base)
        return make(run, head=head, model={"adapt": "head_only", **model}, **training)

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
    ("kind", "head", "model"),
    [
        ("bert", "linear", {}),
        ("bert", MLP, {}),
        ("bert", "linear", WINDOWS),
        ("distilbert", "linear", {}),
        ("roberta", "linear", {}),
        ("gpt2", "linear", {}),
        ("llama", "linear", {}),
    ],
)
def test_the_epochs_are_those_of_the_slow_way(frozen_work, slowly, kind, head, model):
    fast, slow = (frozen_work(name, kind, head, **model) for name in ("fast", "slow"))
    found, expected = run(fast), slowly(slow)
    assert "the frozen encoder ran once over " in log_of(fast)
    assert found.losses() == pytest.approx(expected.losses(), abs=1e-5)
    for metrics, others in zip(found.evaluations(), expected.evaluations(), strict=True):
        assert metrics["eval_loss"] == pytest.approx(others["eval_loss"], abs=1e-5)
    assert found.done["metrics"]["test"]["loss"] == pytest.approx(
        expected.done["metrics"]["test"]["loss"], abs=1e-5
    )
    after, before = weights(fast.run), weights(slow.run)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=1e-4)
