"""One trial in this process: no Ray, a tiny model, a scheduler that is a list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clftask.config.results import Shipped
from clftask.config.sections import TrainingSpec
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.batching import Limit
from clftask.data.prepare import prepare, tokenise
from clftask.errors import Problem, StorageError
from clftask.models.tokenizers import load_tokenizer
from clftask.training import trainer
from clftask.training.checkpoints import Checkpoints
from clftask.training.worker import Work, build_trainer
from clftask.tuning import trial_worker
from clftask.tuning.attempts import Attempt, fail, replay_evaluations
from clftask.tuning.trial_store import Evaluation, Trial, TrialStore
from clftask.tuning.trial_worker import Stopped, attempt
from clftask.tuning.winner import _shipped, publish_winner


class Listener:
    """Hears of evaluations, and ends the trial (or the process) after some of them."""

    def __init__(self, stop_after: int | None = None, error: type[BaseException] = SystemExit):
        self.heard: list[tuple[float, float | None]] = []
        self.steps: list[int | None] = []
        self.stop_after, self.error = stop_after, error

    def __call__(self, evaluation: Any, step: int | None, count: int) -> None:
        self.heard.append((evaluation.epoch, evaluation.metrics["micro_f1"]))
        self.steps.append(step)
        if count == self.stop_after:
            raise self.error

    @property
    def epochs(self) -> list[float]:
        return [epoch for epoch, _ in self.heard]


@pytest.fixture
def search(tmp_path, toy_table, tiny_base) -> TuneJob:
    train = {
        "task": "multilabel",
        "data": {
            "train": str(toy_table(120)),
            "text": "text",
            "labels": {"kind": "list", "column": "tags"},
        },
        "model": {"base": str(tiny_base), "max_length": 32},
        "training": {"epochs": 4, "batch_size": 16, "early_stopping": None, "precision": "fp32"},
    }
    rate = {"kind": "loguniform", "low": 1e-4, "high": 1e-1}
    return TuneJob.load({"train": train, "space": {"training.learning_rate": rate}})


@pytest.fixture
def make(search, tmp_path):
    prepared = prepare(search.train)
    tables = tokenise(prepared, load_tokenizer(search.train.model.base), search.train.model)
    data = {"fingerprint": prepared.fingerprint, "report": prepared.report.as_json()}

    def attempt_of(
        number=0, rate=2e-2, saves="always", keeps_weights=False, source_trial=None, **options: Any
    ):
        picks = {"training.learning_rate": rate}
        trial = Trial(number=number, picks=picks, params=picks, seed=42)
        trial = TrialStore(str(tmp_path / "run")).read(trial)
        source_trial = source_trial or trial.source_trial
        trial = trial.model_copy(
            update={"picks": picks, "params": picks, "source_trial": source_trial}
        )
        job = search.trial(picks)
        work = Work(job, str(tmp_path / "run"), tables, prepared.space.names, data, "")
        return Attempt(work, trial, search.goal, saves, keeps_weights, **options)

    return attempt_of


def run(spec: Attempt, listener: Listener | None = None) -> Trial:
    listener = listener or Listener()
    replay_evaluations(spec, listener)
    done = attempt(spec, listener, rank=0, world=1, device="cpu")
    if done.state == "failed" and spec.trial.state == "running":
        fail(spec.work.run, done)
    return done


def files(path: Path) -> set[str]:
    return {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}


def values(trial: Trial) -> list[tuple[float, dict[str, float | None]]]:
    return [(e.epoch, e.metrics) for e in trial.evaluations]


def test_reports_every_epoch_and_leaves_only_its_record(make, tmp_path):
    listener = Listener()
    done = run(make(), listener)
    assert done.state == "finished"
    assert listener.epochs == [1, 2, 3, 4]
    assert listener.heard == [(e.epoch, e.metrics["micro_f1"]) for e in done.evaluations]
    assert files(tmp_path / "run") == {"trials/0000/trial.json"}
    assert TrialStore(str(tmp_path / "run")).all() == [done]


def test_auto_of_the_search_falls_back_for_a_model_that_lacks_it(make, search, monkeypatch):
    spec = make()
    auto = search.train.training.model_copy(update={"precision": "auto", "epochs": 1})
    job = spec.work.job.model_copy(update={"training": auto})
    trial = spec.trial.model_copy(update={"precision": "bf16"})
    spec = replace(spec, work=replace(spec.work, job=job), trial=trial)
    of_model = {True: "RuntimeError: no bf16", False: ""}
    monkeypatch.setattr(
        trainer.ClassifierTrainer, "precision_failure", lambda own: of_model[own.args.bf16]
    )
    used: list[bool] = []
    train = trainer.ClassifierTrainer.train

    def spy(own: Any, **options: Any) -> Any:
        used.append(own.args.bf16)
        return train(own, **options)

    monkeypatch.setattr(trainer.ClassifierTrainer, "train", spy)
    assert run(spec).state == "finished"
    assert used == [False]


def test_stopped_trial_is_over_and_its_checkpoints_are_gone(make, tmp_path, monkeypatch):
    monkeypatch.setattr(trial_worker, "SAVE_INTERVAL_S", 0.0)
    with pytest.raises(Stopped):
        run(make(saves="sometimes"), Listener(stop_after=2))
    (found,) = TrialStore(str(tmp_path / "run")).all()
    assert (found.state, len(found.evaluations)) == ("stopped", 2)
    assert files(tmp_path / "run") == {"trials/0000/trial.json"}
    listener = Listener()
    assert run(make(saves="sometimes"), listener) == found
    assert listener.epochs == [1, 2]


def test_stop_after_the_last_epoch_is_a_finish(make, tmp_path):
    with pytest.raises(Stopped):
        run(make(saves="sometimes"), Listener(stop_after=4))
    (found,) = TrialStore(str(tmp_path / "run")).all()
    assert (found.state, len(found.evaluations)) == ("finished", 4)


def test_paused_trial_resumes_with_the_same_result(make):
    whole = run(make(number=1))
    with pytest.raises(Stopped):
        run(make(), Listener(stop_after=2))
    listener = Listener()
    again = make(num_told=2)
    assert again.trial.state == "running"
    done = run(again, listener)
    assert listener.epochs == [3, 4]
    for (epoch, found), (wanted_epoch, wanted) in zip(values(done), values(whole), strict=True):
        assert epoch == wanted_epoch
        assert found == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("saves", ["always", "sometimes"])
def test_killed_trial_replays_and_trains_only_what_is_missing(make, saves, monkeypatch):
    """`sometimes` has no checkpoint yet: it trains anew, but reports nothing twice."""
    with pytest.raises(KeyboardInterrupt):
        run(make(saves=saves), Listener(stop_after=3, error=KeyboardInterrupt))
    steps = []
    monkeypatch.setattr(
        trial_worker.TrialCallback,
        "on_evaluate",
        _counting(trial_worker.TrialCallback.on_evaluate, steps),
    )
    listener = Listener()
    done = run(make(saves=saves), listener)
    assert listener.epochs == [1, 2, 3, 4]
    assert [e.epoch for e in done.evaluations] == [1, 2, 3, 4]
    assert len(steps) == (1 if saves == "always" else 4)


def _counting(method, steps):
    def counted(self, args, state, control, **rest):
        steps.append(state.global_step)
        return method(self, args, state, control, **rest)

    return counted


def test_whole_state_is_saved_at_times_alone(make, tmp_path, monkeypatch):
    seen: list[set[str]] = []

    class Looking(Listener):
        def __call__(self, *told: Any) -> None:
            super().__call__(*told)
            seen.append({name.split("/")[2] for name in files(tmp_path / "run")})

    run(make(saves="sometimes"), Looking())
    assert seen == [{"trial.json"}] * 4
    monkeypatch.setattr(trial_worker, "SAVE_INTERVAL_S", 0.0)
    listener = Looking()
    run(make(number=1, saves="sometimes"), listener)
    assert None is not listener.steps[-1] < 24  # the last epoch saves nothing


def test_keeps_the_weights_of_its_best_evaluation(make, tmp_path):
    done = run(make(keeps_weights=True, rate=5e-2))
    assert files(tmp_path / "run") == {
        "trials/0000/trial.json",
        "trials/0000/best/model.safetensors",
    }
    spec = make(keeps_weights=True, rate=5e-2)
    outcome = publish_winner(spec.work, spec.work.job, done, "cpu", 1)
    best = done.best(spec.goal)
    assert outcome["metrics"]["validation"]["loss"] == pytest.approx(best.metrics["loss"], abs=1e-5)
    assert set(outcome["metrics"]) == {"validation", "test"}
    assert (tmp_path / "run" / "bundle" / "clftask.json").exists()
    assert outcome["best_step"] == best.step
    ends = {"epoch": best.epoch, "epochs": done.evaluations[-1].epoch}
    assert Shipped.of(outcome) == Shipped(**ends, metric="micro_f1")
    page = (tmp_path / "run" / "bundle" / "report.html").read_text()
    assert 'id="scores"' in page


def test_frozen_weights_of_the_winner_are_those_of_the_base(make, tmp_path, tiny_base):
    """The trial keeps them in bf16."""
    spec = make(keeps_weights=True)
    document = spec.work.job.dump()
    document["model"]["adapt"] = {"kind": "last_layers", "layers": 1}
    document["training"] |= {"precision": "bf16", "weights": "bf16", "epochs": 1}
    job = TrainJob.load(document)
    spec = replace(spec, work=replace(spec.work, job=job))
    done = run(spec)
    rounded, base = load_file(tmp_path / "run/trials/0000/best/model.safetensors"), {}
    publish_winner(spec.work, job, done, "cpu", 1)
    found = load_file(tmp_path / "run" / "bundle" / "model.safetensors")
    for name, tensor in load_file(tiny_base / "model.safetensors").items():
        base[f"bert.{name.removeprefix('bert.')}"] = tensor
    name = "bert.embeddings.word_embeddings.weight"
    assert rounded[name].dtype == torch.bfloat16
    assert torch.equal(found[name], base[name])


@pytest.mark.parametrize(
    ("state", "epochs", "patience"),
    [("finished", 4, 2), ("stopped", 4, None), ("finished", 9, None)],
)
def test_only_early_stopping_of_a_trial_is_called_so(state, epochs, patience):
    known = {"seconds": 1, "metrics": {"macro_f1": 0.5}}
    scores = [Evaluation(epoch=n, step=n, **known) for n in range(1, epochs + 1)]
    trial = Trial(number=0, picks={}, params={}, seed=1, state=state, evaluations=tuple(scores))
    training = TrainingSpec(epochs=9, metric="macro_f1", early_stopping={"patience": 2})
    found = _shipped(trial, scores[1], training)
    assert found == Shipped(epoch=2, epochs=epochs, metric="macro_f1", patience=patience)


def test_failure_is_recorded_with_its_reason(make, tmp_path, monkeypatch):
    done = run(make(rate=1e30))
    assert done.state == "failed"
    assert "the loss is NaN or infinite" in done.reason

    def explode(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.ClassifierTrainer, "training_step", explode)
    done = run(make(number=1))
    assert (done.state, done.reason) == ("failed", "out of memory")
    assert run(make(number=1)) == done
    assert files(tmp_path / "run") == {"trials/0000/trial.json", "trials/0001/trial.json"}


def test_out_of_memory_is_tried_again_once_with_half_the_micro_batch(make, monkeypatch):
    limits: list[Limit] = []
    step = trainer.ClassifierTrainer.training_step

    def explode_once(own: Any, *args: Any, **options: Any) -> Any:
        limits.append(own.batches.limit)
        if len(limits) == 8:  # in the second epoch
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(own, *args, **options)

    monkeypatch.setattr(trainer.ClassifierTrainer, "training_step", explode_once)
    listener = Listener()
    done = run(make(saves="sometimes"), listener)
    assert (done.state, listener.epochs) == ("finished", [1, 2, 3, 4])
    assert limits == [Limit(tokens=2048)] * 8 + [Limit(tokens=1024)] * 24


def test_failure_is_not_final_before_it_is_known_whose_it_was(make, tmp_path, monkeypatch):
    """A worker that is gone shows as an error of the first one."""

    class LostConnectionError(Exception):
        pass

    def lose(*_: Any) -> None:
        raise LostConnectionError

    with pytest.raises(Stopped):
        run(make(), Listener(stop_after=2))
    before = files(tmp_path / "run")
    assert any("/checkpoints/" in name for name in before)
    with monkeypatch.context() as patched:
        patched.setattr(trainer.ClassifierTrainer, "training_step", lose)
        done = attempt(make(num_told=2), Listener(), rank=0, world=1, device="cpu")
    assert (done.state, "LostConnectionError" in done.reason) == ("failed", True)
    assert files(tmp_path / "run") == before
    assert TrialStore(str(tmp_path / "run")).all()[0].state == "running"


def test_killed_when_a_checkpoint_is_complete_it_has_the_evaluation(make, monkeypatch):
    wait = Checkpoints.wait
    count = []

    def wait_and_die(self: Any) -> None:
        is_saved = self._upload is not None
        wait(self)
        count.extend([1] if is_saved else [])
        if len(count) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "wait", wait_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(make())
    listener = Listener()
    done = run(make(), listener)
    assert listener.epochs == [1, 2, 3, 4]
    assert [e.epoch for e in done.evaluations] == [1, 2, 3, 4]


def test_one_of_a_population_resumes_from_its_source_until_it_has_newer_state(make, monkeypatch):
    """The trial's record keeps the source trial that a scheduler's state loses."""
    for number, rate in ((0, 2e-2), (1, 1e-4)):
        with pytest.raises(Stopped):
            run(make(number=number, rate=rate, is_of_population=True), Listener(stop_after=2))
    trained: list[int] = []
    monkeypatch.setattr(
        trial_worker.TrialCallback,
        "on_evaluate",
        _counting(trial_worker.TrialCallback.on_evaluate, trained),
    )
    step = make().trial.evaluations[-1].step
    options = {"number": 1, "rate": 1e-2, "is_of_population": True}
    spec = make(**options, num_told=2, source_trial=(0, step))
    TrialStore(spec.work.run).write(spec.trial)
    again = make(**options, num_told=2)
    assert again.trial.source_trial == (0, step)
    loaded: list[str] = []
    fetch = Checkpoints.fetch

    def remember(self: Any, step: int, *names: str) -> str:
        loaded.append(f"{Path(self.path).parent.name} {step}")
        return fetch(self, step, *names)

    monkeypatch.setattr(Checkpoints, "fetch", remember)
    with pytest.raises(Stopped):
        run(again, Listener(stop_after=3))
    done = run(make(**options, num_told=3), Listener())
    assert loaded == [f"0000 {step}", f"0001 {step * 3 // 2}"]
    assert trained == [step * 3 // 2, step * 2]
    assert [e.epoch for e in done.evaluations] == [1, 2, 3, 4]
    rates = [e.picks["training.learning_rate"] for e in done.evaluations]
    assert rates == [1e-4, 1e-4, 1e-2, 1e-2]


def test_one_of_a_population_leaves_its_state_to_others_when_it_ends(make, tmp_path):
    assert run(make(is_of_population=True)).state == "finished"
    assert any("/checkpoints/" in name for name in files(tmp_path / "run"))


def test_stop_during_the_replay_is_kept(make, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(make(saves="sometimes"), Listener(stop_after=2, error=KeyboardInterrupt))
    with pytest.raises(SystemExit):
        run(make(saves="sometimes"), Listener(stop_after=1))
    (found,) = TrialStore(str(tmp_path / "run")).all()
    assert (found.state, len(found.evaluations)) == ("stopped", 2)
    assert files(tmp_path / "run") == {"trials/0000/trial.json"}


def test_finish_is_stored_before_it_is_reported(make, tmp_path):
    """A driver that dies of the last report finds the trial finished."""
    with pytest.raises(KeyboardInterrupt):
        run(make(saves="sometimes"), Listener(stop_after=4, error=KeyboardInterrupt))
    (found,) = TrialStore(str(tmp_path / "run")).all()
    assert (found.state, len(found.evaluations)) == ("finished", 4)


def test_storage_that_does_not_answer_is_not_the_fault_of_the_trial(make, tmp_path):
    class LostError(StorageError):
        def __init__(self) -> None:
            super().__init__(Problem("s3://bucket", None, "does not answer"))

    with pytest.raises(StorageError):
        run(make(), Listener(stop_after=2, error=LostError))
    (found,) = TrialStore(str(tmp_path / "run")).all()
    assert found.state == "running"


def test_copy_of_a_finished_source_trial_resumes_from_its_own_state(make, tmp_path):
    run(make(number=0))
    with pytest.raises(Stopped):
        run(make(number=1), Listener(stop_after=2))
    listener = Listener()
    done = run(make(number=1, num_told=2, source_trial=(0, 999)), listener)
    assert listener.epochs == [3, 4]
    assert [e.epoch for e in done.evaluations] == [1, 2, 3, 4]


def test_patience_ends_a_trial(make, search):
    spec = make(rate=1e-9)
    training = spec.work.job.training.model_dump() | {"early_stopping": {"patience": 1}}
    job = spec.work.job.load({**spec.work.job.dump(), "training": training})
    spec = Attempt(**{**vars(spec), "work": Work(**{**vars(spec.work), "job": job})})
    done = run(spec)
    assert done.state == "finished"
    assert len(done.evaluations) < 4


def test_resumes_from_a_source_trial_with_its_own_settings(make, tmp_path, monkeypatch):
    """The source trial's weights and moments, the trial's own rate and weight decay."""
    with pytest.raises(Stopped):
        run(make(number=0, rate=2e-2), Listener(stop_after=2))
    with pytest.raises(Stopped):
        run(make(number=1, rate=1e-4), Listener(stop_after=2))
    store = TrialStore(str(tmp_path / "run"))
    source_trial = store.all()[0]
    step = source_trial.evaluations[-1].step
    seen = []

    class Looking(Listener):
        def __call__(self, *told: Any) -> None:
            super().__call__(*told)
            callback = next(
                c
                for c in trainers[-1].callback_handler.callbacks
                if isinstance(c, trial_worker.TrialCallback)
            )
            optimizer, schedule = callback.trainer.optimizer, callback.trainer.lr_scheduler
            seen.append(([g["initial_lr"] for g in optimizer.param_groups], schedule.base_lrs))
            rates = [g["lr"] for g in optimizer.param_groups]
            share = schedule.lr_lambdas[0](schedule.last_epoch)
            assert rates == pytest.approx([share * rate for rate in schedule.base_lrs])
            assert rates == schedule.get_last_lr()

    trainers = []

    def remember(*args: Any, **kwargs: Any) -> Any:
        trainers.append(build_trainer(*args, **kwargs))
        return trainers[-1]

    monkeypatch.setattr(trial_worker, "build_trainer", remember)
    listener = Looking()
    spec = make(number=1, rate=3e-3, num_told=2, source_trial=(0, step))
    done = run(spec, listener)
    assert listener.epochs == [3, 4]
    body, head = 3e-3, spec.work.job.training.head_rate
    for initial, base in seen:
        assert sorted(set(initial)) == sorted({body, head}) == sorted(set(base))
    assert [e.epoch for e in done.evaluations] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "fields", [[], ["model.adapt=lora", "training.layer_decay=0.5"]], ids=["full", "lora"]
)
def test_copy_of_a_source_trial_with_its_settings_continues_it(make, tmp_path, fields):
    def trial(**options: Any) -> Attempt:
        spec = make(**options)
        job = TrainJob.load(spec.work.job.dump(), fields)
        return replace(spec, work=replace(spec.work, job=job))

    whole = run(trial(number=2, rate=2e-2))
    for number, rate in ((0, 2e-2), (1, 1e-4)):
        with pytest.raises(Stopped):
            run(trial(number=number, rate=rate), Listener(stop_after=2))
    source_trial = TrialStore(str(tmp_path / "run")).all()[0]
    step = source_trial.evaluations[-1].step
    done = run(trial(number=1, rate=2e-2, num_told=2, source_trial=(0, step)))
    for (_, found), (_, wanted) in zip(values(done)[2:], values(whole)[2:], strict=True):
        assert found == pytest.approx(wanted, abs=1e-5)
