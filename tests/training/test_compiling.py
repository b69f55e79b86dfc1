"""Compiled layers in training; torch's compiler traces them here, but builds no machine code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from training_work import Recorder, weights, work_factory
from training_work import run as train

from clftask.config.sections import TrainingSpec
from clftask.training import compiling
from clftask.training.compiling import Compiling
from clftask.training.worker import Work


@pytest.fixture
def make_calm(tmp_path: Path, toy_table: Any, tiny_base: Path) -> Callable[..., Work]:
    """Make work whose model has no dropout: compiled code would draw other masks."""
    folder = shutil.copytree(tiny_base, tmp_path / "calm")
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return work_factory(tmp_path, toy_table(120), folder)


class Tracer:
    """Traces layers; fails at a certain call, if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compile, self.fail_at, self.modes = torch.compile, 0, []
        monkeypatch.setattr(torch, "compile", self.traced)

    def traced(self, call: Any, **options: Any) -> Any:
        made = self.compile(call, backend="aot_eager", **options)

        def run(*args: Any, **inputs: Any) -> Any:
            self.modes.append(call.__self__.training)
            if len(self.modes) == self.fail_at:
                raise KeyError("no compiler")
            return made(*args, **inputs)

        return run


@pytest.fixture
def tracer(monkeypatch: pytest.MonkeyPatch) -> Tracer:
    return Tracer(monkeypatch)


def log(work: Work) -> str:
    return Path(work.run, "log.txt").read_text()


def assert_same(found: Recorder, expected: Recorder) -> None:
    assert found.losses() == pytest.approx(expected.losses(), abs=1e-5)
    assert len(found.losses()) > 1
    metrics = [record["eval_loss"] for record in expected.evaluations()]
    assert [r["eval_loss"] for r in found.evaluations()] == pytest.approx(metrics, abs=1e-5)


@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_compiled_layers_train_the_same_model_and_leave_no_trace(make_calm, tracer, checkpointing):
    options = {"gradient_checkpointing": checkpointing, "hf": {"logging_steps": 1}, "epochs": 2}
    plain, compiled = (make_calm(f"compile-{c}", compile=c, **options) for c in (False, True))
    expected = train(plain)
    assert tracer.modes == []
    assert_same(train(compiled), expected)
    assert tracer.modes
    assert all(tracer.modes), "an evaluation was compiled"
    assert "the layers are compiled, in " in log(compiled)
    for name, value in weights(plain.run).items():
        np.testing.assert_allclose(weights(compiled.run)[name], value, atol=1e-4)


@pytest.mark.parametrize("fail_at", [1, 20])
def test_training_goes_on_without_a_compiler(make_calm, tracer, fail_at):
    """It fails at the first step, or at a later one: the step begins again."""
    options = {"epochs": 2, "hf": {"logging_steps": 1}}
    expected = train(make_calm("plain", compile=False, **options))
    tracer.fail_at = fail_at
    work = make_calm("compiled", compile=True, **options)
    assert_same(train(work), expected)
    assert len(tracer.modes) == fail_at
    assert "the layers run without torch.compile: KeyError: 'no compiler'" in log(work)


def started_after(spec: TrainingSpec, device: str = "cpu", max_steps: int = 10_000) -> int:
    """Return the number of steps after which the layers of a model are compiled; 0: never."""
    model = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    args = SimpleNamespace(device=torch.device(device), world_size=1)
    own = Compiling(model, args, spec, lambda: "", lambda line: None)  # type: ignore[arg-type]
    state = SimpleNamespace(max_steps=max_steps, global_step=0)
    own.on_train_begin(args, state, None)
    while not own.layers and state.global_step < 20:
        own.on_step_begin(args, state, None)
        state.global_step += 1
        own.on_step_end(args, state, None)
    return state.global_step if own.layers else 0


def test_auto_compiles_where_the_steps_ahead_outweigh_it(monkeypatch):
    assert started_after(TrainingSpec()) == 0  # on CPUs it does not pay
    monkeypatch.setattr(compiling, "PAYS_S", {"cpu": 0.0})
    assert started_after(TrainingSpec()) == compiling.LAST
    assert started_after(TrainingSpec(), max_steps=compiling.LAST) == 0  # the last step
    assert started_after(TrainingSpec(deterministic=True)) == 0
    monkeypatch.setattr(compiling, "PAYS_S", {"cpu": 1e9})
    assert started_after(TrainingSpec()) == 0


def test_true_compiles_before_the_first_step_and_false_never(monkeypatch):
    monkeypatch.setattr(compiling, "PAYS_S", {"cpu": 0.0})
    model, args = torch.nn.Linear(2, 2), SimpleNamespace(device=torch.device("cpu"), world_size=1)
    for wanted in (True, False):
        spec = TrainingSpec(compile=wanted)
        own = Compiling(model, args, spec, lambda: "", lambda line: None)  # type: ignore[arg-type]
        own.on_train_begin(args, None, None)
        assert own.layers == ([model] if wanted else [])
    assert started_after(TrainingSpec(compile=False)) == 0
