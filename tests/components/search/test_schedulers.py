"""Who stops trials early: one contract for every scheduler, then decisions of Ray's own."""

from __future__ import annotations

import typing
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from clftask.components.search.goal import Goal
from clftask.components.search.ray_schedulers import TRIAL
from clftask.components.search.schedulers import EPOCH, Scheduler
from clftask.components.search.space import AnyDistribution, Space
from clftask.errors import Problem

DISTRIBUTION: TypeAdapter[Any] = TypeAdapter(AnyDistribution)
SCHEDULER: TypeAdapter[Any] = TypeAdapter(Scheduler)
MEMBERS = {
    member.model_fields["kind"].default: member
    for member in typing.get_args(typing.get_args(Scheduler)[0])
}
every_member = pytest.mark.parametrize("kind", MEMBERS)
EPOCHS = 9

F1 = Goal(metric="micro_f1", greater_is_better=True)
LOSS = Goal(metric="loss", greater_is_better=False)
GOALS = {"maximised": F1, "minimised": LOSS}

RATE = {"kind": "loguniform", "low": 1e-5, "high": 1e-3}
DECAY = {"kind": "uniform", "low": 0, "high": 0.1}


def space(paths: dict[str, Any]) -> Space:
    return Space({name: DISTRIBUTION.validate_python(d) for name, d in paths.items()})


# Numbers that may change while a model trains: every scheduler takes them.
RATES = space({"training.learning_rate": RATE, "training.weight_decay": DECAY})


def built(kind: str, goal: Goal = F1, where: Space = RATES, seed: int = 7, **fields: Any) -> Any:
    return MEMBERS[kind](**fields).build(where, goal, EPOCHS, seed)


def searcher_of(kind: str) -> str:
    """Return a searcher that a scheduler works with."""
    return (MEMBERS[kind].searchers or ("random",))[0]


def problems(kind: str, where: Space = RATES, searcher: str = "", epochs: int = EPOCHS) -> Any:
    return MEMBERS[kind]().problems(where, searcher or searcher_of(kind), epochs)


def a_trial(number: int, **config: float) -> Any:
    """Return a trial of Ray Tune that runs nowhere; `learning_rate` stands for its path."""
    from ray.tune.experiment import Trial

    picks = {f"training.{name}": value for name, value in config.items()}
    return Trial("none", config={TRIAL: number, **picks}, trial_id=f"t{number}", stub=True)


# ------------------------------------------------------------------ every member


@every_member
def test_every_scheduler_has_a_bare_name_and_takes_rates(kind: str) -> None:
    assert SCHEDULER.validate_python(kind) == MEMBERS[kind]()
    assert SCHEDULER.validate_python(MEMBERS[kind]().dump()) == MEMBERS[kind]()
    assert problems(kind) == []


@every_member
def test_it_builds_a_scheduler_of_ray_tune_that_counts_epochs(kind: str) -> None:
    from ray.tune.schedulers import TrialScheduler

    scheduler = built(kind)
    assert isinstance(scheduler, TrialScheduler)
    assert EPOCH == "epoch"
    clock = {k: v for k, v in vars(scheduler).items() if k.endswith("time_attr")}
    assert clock == ({} if kind == "fifo" else {"_time_attr": "epoch"})


@pytest.mark.parametrize("direction", GOALS)
@every_member
def test_it_knows_the_metric_and_its_direction(kind: str, direction: str) -> None:
    known = vars(built(kind, GOALS[direction]))
    expected = {"maximised": ("micro_f1", "max"), "minimised": ("loss", "min")}[direction]
    found = known.get("_metric"), known.get("_mode")
    assert found == ((None, None) if kind == "fifo" else expected)
    assert known.get("_metric_op", 0) in (0, 1 if direction == "maximised" else -1)


@every_member
def test_epochs_are_searched_only_where_all_trials_run_to_their_end(kind: str) -> None:
    where = space({"training.epochs": {"kind": "randint", "low": 1, "high": 9}})
    found = [p for p in problems(kind, where) if "epochs" in p.allowed]
    remedy = "Set train.training.epochs to the maximum, or use scheduler: fifo."
    allowed = f"{kind} compares trials by their epochs"
    expected = [Problem("space.training.epochs", None, allowed, remedy)]
    assert found == ([] if kind == "fifo" else expected)


@every_member
def test_the_bohb_searcher_is_for_the_bohb_scheduler_alone(kind: str) -> None:
    found = {p.path: p.value for p in problems(kind, searcher="bohb")}
    if kind == "bohb":
        assert found == {}
    elif MEMBERS[kind].searchers is None:
        assert found == {"scheduler.kind": kind}
    else:
        assert found == {"searcher.kind": "bohb"}


@every_member
def test_whoever_changes_settings_lets_trials_go_on(kind: str) -> None:
    assert MEMBERS[kind].resumes or not MEMBERS[kind].mutates


def test_which_schedulers_let_trials_go_on() -> None:
    assert {kind for kind in MEMBERS if MEMBERS[kind].resumes} >= {"hyperband", "bohb", "pbt"}
    assert not any(MEMBERS[kind].resumes for kind in ("fifo", "asha", "median"))
    assert {kind for kind in MEMBERS if MEMBERS[kind].mutates} == {"pbt", "pb2"}


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_grace_ends_with_training_at_the_latest(kind: str) -> None:
    scheduler = MEMBERS[kind](grace_epochs=4)
    assert scheduler.problems(RATES, "random", 4) == []
    assert scheduler.problems(RATES, "random", 3) == [
        Problem("scheduler.grace_epochs", 4, "must be at most train.training.epochs (3)")
    ]


def test_the_bohb_scheduler_needs_its_searcher() -> None:
    assert problems("bohb", searcher="random") == [
        Problem("searcher.kind", "random", "bohb requires searcher bohb")
    ]


@pytest.mark.parametrize("kind", ["pbt", "pb2"])
def test_a_population_draws_its_first_settings(kind: str) -> None:
    allowed = f"{kind} requires searcher random or grid"
    assert problems(kind, searcher="optuna") == [Problem("searcher.kind", "optuna", allowed)]


def test_pbt_changes_only_what_a_model_in_training_can() -> None:
    focal = {"kind": "focal", "gamma": {"kind": "uniform", "low": 1, "high": 5}}
    where = space(
        {
            "training.batch_size": {"kind": "choice", "values": [16, 32]},
            "training.head_learning_rate": RATE,
            "training.max_grad_norm": {"kind": "uniform", "low": 0.1, "high": 2},
            "training.warmup": DECAY,
            "model.base": {"kind": "choice", "values": ["a", "b"]},
            "loss": {"kind": "choice", "values": ["bce", focal]},
        }
    )
    found = problems("pbt", where)
    assert [p.path for p in found] == [
        "space.training.batch_size",
        "space.model.base",
        "space.loss[1].gamma",
    ]
    assert found[0].allowed == "pbt can only change rates, decay and the loss during training"
    assert problems("pbt", space({"loss.gamma": DECAY, "training.weight_decay": DECAY})) == []


def test_pb2_searches_numbers_between_bounds() -> None:
    where = space(
        {
            "training.learning_rate": RATE,
            "training.weight_decay": {"kind": "choice", "values": [0, 0.1]},
            "training.warmup": {"kind": "quniform", "low": 0, "high": 0.5, "q": 0.1},
        }
    )
    assert [(p.path, p.value, p.remedy) for p in problems("pb2", where)] == [
        ("space.training.weight_decay", "choice", "Use scheduler: pbt."),
        ("space.training.warmup", "quniform", "Use scheduler: pbt."),
    ]


# ------------------------------------------------------------------ what they decide


class Controller:
    """The part of Ray Tune's controller that schedulers ask: one trial always waits."""

    def get_live_trials(self) -> list[Any]:
        return [a_trial(99)]


def told(scheduler: Any, trial: Any, epoch: int, **metrics: float) -> str:
    """Tell a scheduler of an evaluation; return what it decides."""
    return str(scheduler.on_trial_result(Controller(), trial, {"epoch": epoch, **metrics}))


@pytest.mark.parametrize("kind", [kind for kind in MEMBERS if not MEMBERS[kind].resumes])
def test_whoever_lets_no_trial_go_on_never_pauses_one(kind: str) -> None:
    scheduler = built(kind)
    trials = [a_trial(number) for number in range(6)]
    for trial in trials:
        scheduler.on_trial_add(Controller(), trial)
    found = [
        told(scheduler, trial, epoch, micro_f1=0.1 * number)
        for epoch in range(1, EPOCHS)
        for number, trial in enumerate(trials)
    ]
    assert set(found) <= {"CONTINUE", "STOP"}
    assert found[0] == "CONTINUE"


@pytest.mark.parametrize(
    ("goal", "good", "bad"), [(F1, 0.9, 0.1), (LOSS, 0.1, 0.9)], ids=["maximised", "minimised"]
)
def test_asha_stops_the_worse_trial_at_a_rung_and_all_at_the_end(
    goal: Goal, good: float, bad: float
) -> None:
    scheduler = built("asha", goal, grace_epochs=2, reduction_factor=2)
    first, second = a_trial(0), a_trial(1)
    for trial in (first, second):
        scheduler.on_trial_add(Controller(), trial)
    assert told(scheduler, first, 1, **{goal.metric: good}) == "CONTINUE"
    assert told(scheduler, first, 2, **{goal.metric: good}) == "CONTINUE"
    assert told(scheduler, second, 1, **{goal.metric: bad}) == "CONTINUE"
    assert told(scheduler, second, 2, **{goal.metric: bad}) == "STOP"
    assert told(scheduler, first, 8, **{goal.metric: good}) == "CONTINUE"
    assert told(scheduler, first, 9, **{goal.metric: good}) == "STOP"


@pytest.mark.parametrize(
    ("goal", "good", "bad"), [(F1, 0.9, 0.1), (LOSS, 0.1, 0.9)], ids=["maximised", "minimised"]
)
def test_median_stops_a_trial_that_is_worse_than_half_of_the_others(
    goal: Goal, good: float, bad: float
) -> None:
    scheduler = built("median", goal, grace_epochs=2, min_trials=2)
    trials = [a_trial(number) for number in range(3)]
    for trial in trials:
        scheduler.on_trial_add(Controller(), trial)
    for trial in trials[:2]:
        for epoch in (1, 2, 3):
            assert told(scheduler, trial, epoch, **{goal.metric: good}) == "CONTINUE"
    assert told(scheduler, trials[2], 1, **{goal.metric: bad}) == "CONTINUE"
    assert told(scheduler, trials[2], 3, **{goal.metric: bad}) == "STOP"


def test_asha_counts_rungs_by_its_factor() -> None:
    (bracket,) = built("asha")._brackets
    assert [rung[0] for rung in bracket._rungs] == [9, 3, 1]


# ------------------------------------------------------------------ populations


def explored(scheduler: Any, count: int = 60) -> list[dict[str, Any]]:
    """Return what a bad trial may go on with, taken from a good one."""
    bad, good = a_trial(3), a_trial(5, learning_rate=9e-4, weight_decay=0.0)
    return [scheduler._get_new_config(bad, good)[0] for _ in range(count)]


def test_pbt_explores_within_the_space_and_keeps_the_trial_number() -> None:
    found = explored(built("pbt"))
    assert {config[TRIAL] for config in found} == {3}
    rates = [config["training.learning_rate"] for config in found]
    assert all(1e-5 <= rate <= 1e-3 for rate in rates)
    assert 1e-3 in rates  # 1.2 x 9e-4 lies above, and is clipped
    assert all(0 <= config["training.weight_decay"] <= 0.1 for config in found)
    assert len(set(rates)) > 5


@pytest.mark.parametrize("kind", ["pbt", "pb2"])
def test_a_population_resumes_when_those_it_waits_for_have_ended(kind: str) -> None:
    """Two of three wait at their first epoch; the third ends without a report."""
    scheduler = built(kind)
    trials = [a_trial(i, learning_rate=1e-4, weight_decay=0.0) for i in range(3)]
    controller = SimpleNamespace(get_trials=lambda: trials, get_live_trials=lambda: set(trials))
    for one in trials:
        scheduler.on_trial_add(controller, one)
        one.set_status("RUNNING")
    for one in trials[:2]:
        found = {"micro_f1": 0.5, "epoch": 1}
        scheduler._save_trial_state(scheduler._trial_state[one], 1, found, one)
        one.set_status("PAUSED")
    assert scheduler.choose_trial_to_run(controller) is None  # the third still runs
    trials[2].set_status("TERMINATED")
    assert scheduler.choose_trial_to_run(controller) in trials[:2]


class Brackets:
    """What a scheduler sees of Ray Tune."""

    def __init__(self, scheduler: Any, trials: list[Any]) -> None:
        self.scheduler, self.trials = scheduler, trials
        for one in trials:
            scheduler.on_trial_add(self, one)
            one.set_status("RUNNING")

    def get_trials(self) -> list[Any]:
        return self.trials

    def stop_trial(self, trial: Any) -> None:
        trial.set_status("TERMINATED")
        self.scheduler.on_trial_complete(self, trial, {})

    def report(self, trial: Any, epoch: int, score: float) -> None:
        """Let a trial report, and do with it what the scheduler says."""
        if trial.status == "RUNNING":
            found = {"micro_f1": score, "epoch": epoch}
            said = self.scheduler.on_trial_result(self, trial, found)
            if said != "CONTINUE":
                self.stop_trial(trial) if said == "STOP" else trial.set_status("PAUSED")

    def lose(self, trial: Any) -> None:
        """Let a trial end by itself or fail: its worker is gone, or its patience is spent."""
        trial.set_status("ERROR")
        self.scheduler.on_trial_error(self, trial)


def test_hyperband_ends_when_the_last_that_others_wait_for_ends_by_itself() -> None:
    scheduler = built("hyperband")
    controller = Brackets(scheduler, [a_trial(i) for i in range(3)])  # its first bracket
    for one in controller.trials[:2]:
        controller.report(one, EPOCHS, 0.5)
    assert [one.status for one in controller.trials] == ["PAUSED", "PAUSED", "RUNNING"]
    assert scheduler.choose_trial_to_run(controller) is None
    controller.lose(controller.trials[2])
    assert scheduler.choose_trial_to_run(controller) is None
    assert [one.status for one in controller.trials] == ["TERMINATED", "TERMINATED", "ERROR"]


def test_hyperband_halves_without_the_last_that_others_wait_for() -> None:
    scheduler = built("hyperband")
    controller = Brackets(scheduler, [a_trial(i) for i in range(8)])
    second = controller.trials[3:]  # bracket: five trials, judged after 3 and 9 epochs
    for one in controller.trials[:3]:
        controller.report(one, EPOCHS, 0.5)
    for number, one in enumerate(second[:4]):
        controller.report(one, 3, 0.1 * number)
    controller.lose(second[4])
    best = scheduler.choose_trial_to_run(controller)
    assert best in second[2:4]
    for one in second[2:4]:
        one.set_status("RUNNING")
    controller.report(second[3], EPOCHS, 0.5)
    assert second[3].status == "PAUSED"
    controller.lose(second[2])
    assert scheduler.choose_trial_to_run(controller) is None
    assert second[3].status == "TERMINATED"


def test_the_seed_decides_what_pbt_explores() -> None:
    once, again = explored(built("pbt", seed=1)), explored(built("pbt", seed=1))
    assert once == again
    assert once != explored(built("pbt", seed=2))


def test_pbt_steps_to_a_neighbour_in_a_list() -> None:
    where = space(
        {"training.learning_rate": {"kind": "choice", "values": [1e-5, 1e-4, 3e-4, 1e-3]}}
    )
    scheduler = built("pbt", where=where, resample_probability=0)
    bad = a_trial(3)
    places = [
        {
            scheduler._get_new_config(bad, a_trial(5, learning_rate=place))[0][
                "training.learning_rate"
            ]
            for _ in range(40)
        }
        for place in range(4)
    ]
    assert places == [{0, 1}, {0, 2}, {1, 3}, {2, 3}]


@pytest.mark.parametrize("direction", GOALS)
def test_pb2_proposes_between_the_bounds_and_keeps_the_trial_number(direction: str) -> None:
    goal = GOALS[direction]
    scheduler = built("pb2", goal)
    trials = [a_trial(i, learning_rate=2e-4 * (i + 1), weight_decay=0.02 * i) for i in range(4)]
    for trial in trials:
        scheduler.on_trial_add(Controller(), trial)
    for epoch in (1, 2):
        for number, trial in enumerate(trials):
            found = {"epoch": epoch, goal.metric: 0.1 * number + 0.05 * epoch}
            scheduler._save_trial_state(scheduler._trial_state[trial], epoch, found, trial)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fit to eight points
        config, _ = scheduler._get_new_config(trials[0], trials[3])
    assert config[TRIAL] == 0
    assert 1e-5 <= config["training.learning_rate"] <= 1e-3
    assert 0 <= config["training.weight_decay"] <= 0.1
    assert config["training.learning_rate"] != 8e-4


# ------------------------------------------------------------------ what they typically spend


@every_member
def test_nobody_spends_more_than_all_epochs_or_less_than_one_each(kind: str) -> None:
    for trials in (1, 2, 7, 40):
        for epochs in (1, 2, 9, 10):
            found = MEMBERS[kind]().typical_epochs(trials, epochs)
            assert trials <= found <= trials * epochs


@pytest.mark.parametrize("kind", ["fifo", "pbt", "pb2"])
def test_whoever_stops_none_spends_all_epochs(kind: str) -> None:
    assert MEMBERS[kind]().typical_epochs(16, 9) == 144


@pytest.mark.parametrize("fields", [{}, {"grace_epochs": 2, "reduction_factor": 2.5}])
def test_asha_typically_spends_what_ray_tunes_own_does(fields: dict[str, Any]) -> None:
    """Sixteen trials, four at a time, whose scores are drawn by lot and do not change."""
    random = np.random.default_rng(3)
    totals = []
    for _ in range(150):
        scheduler, scores = built("asha", **fields), random.random(16)
        waiting, running, ages = [a_trial(i) for i in range(16)], [], dict.fromkeys(range(16), 0)
        for trial in waiting:
            scheduler.on_trial_add(Controller(), trial)
        while waiting or running:
            while waiting and len(running) < 4:
                running.append(waiting.pop(0))
            trial = running.pop(0)
            number = trial.config[TRIAL]
            ages[number] += 1
            if told(scheduler, trial, ages[number], micro_f1=scores[number]) == "CONTINUE":
                running.append(trial)
        totals.append(sum(ages.values()))
    found = MEMBERS["asha"](**fields).typical_epochs(16, EPOCHS)
    assert found == pytest.approx(np.mean(totals), rel=0.06)


def test_hyperband_spends_what_its_brackets_do() -> None:
    # Of up to 9 epochs: 3 trials of 9; 5 of 3, of which 2 go on to 9; 9 of 1, of which 3 go on
    # to 3, and 1 to 9.
    hyperband, bohb = MEMBERS["hyperband"](), MEMBERS["bohb"]()
    assert [hyperband.typical_epochs(n, 9) for n in (3, 8, 17, 20)] == [27, 54, 75, 102]
    assert [bohb.typical_epochs(n, 9) for n in (9, 14, 17)] == [21, 48, 75]
    assert bohb.typical_epochs(2, 9) == 12  # both to the second rung, one to the end


def test_median_stops_half_of_those_it_can_judge() -> None:
    median = MEMBERS["median"](grace_epochs=2, min_trials=4)
    assert median.typical_epochs(4, 10) == 40
    assert median.typical_epochs(14, 10) == 140 - 5 * 8
