"""Compiled layers in training; torch's compiler traces them here, but builds no machine code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
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


# One process imports torch, for two workers. The compiler fails on the second one, at a late step.
WORKERS = """
import os, sys
from pathlib import Path
import torch, torch.distributed as dist
from clftask.data.prepare import prepare
from clftask.training import worker
sys.path += sys.argv[2:]
from test_compiling import Tracer
from training_work import Recorder, work_of
import json
import pytest

folder, document = Path(sys.argv[1]), json.loads(Path(sys.argv[1], "job.json").read_text())
work = work_of(document, str(folder / "run"))
torch.set_num_threads(1)
child = os.fork()
rank = int(not child)
os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
store = f"file://{folder}/group"
dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
with pytest.MonkeyPatch.context() as patch:
    tracer, sink = Tracer(patch), Recorder()
    tracer.fail_at = 20 if rank else 0
    worker.fit(work, sink, rank, 2, "cpu")
found = {"calls": len(tracer.modes)}
if not rank:
    found |= {"losses": list(sink.losses().values()), "steps": sink.done["steps"]}
Path(folder, f"{rank}.json").write_text(json.dumps(found))
dist.barrier()
if child:
    os.waitpid(child, 0)
os._exit(0)
"""


@pytest.mark.slow
def test_two_workers_go_on_without_the_compiler_of_one(make_calm, tmp_path):
    """The second fails in the midst of an epoch; the first one follows after the evaluation."""
    options = {"epochs": 3, "hf": {"logging_steps": 1}}
    expected = train(make_calm("plain", compile=False, **options))
    job = make_calm("run", compile=True, **options).job
    (tmp_path / "job.json").write_text(json.dumps(job.dump()))
    own = Path(__file__).parent
    places = [str(place) for place in (tmp_path, own, own.parent)]
    subprocess.run([sys.executable, "-c", WORKERS, *places], check=True, timeout=300)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["losses"] == pytest.approx(list(expected.losses().values()), abs=1e-5)
    assert first["steps"] == expected.done["steps"]
    assert second["calls"] == 20
    layers, steps = 2, 1 + 2 * expected.done["steps"] // 3  # a trial step, and two epochs
    assert first["calls"] == layers * steps
    lines = (tmp_path / "run/log.txt").read_text()
    assert "the layers run without torch.compile: it fails on another worker" in lines
