"""Which trial wins, and what is kept of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from clftask.components.search.goal import Goal
from clftask.errors import DataError
from clftask.io.strict_json import strict
from clftask.tuning.trial_store import (
    Evaluation,
    Trial,
    TrialStore,
    finalists,
    mean_scores,
    ranked,
    table,
    winner,
)

F1 = Goal(metric="f1", greater_is_better=True)
LOSS = Goal(metric="loss", greater_is_better=False)


def evaluated(*scores: float | None) -> tuple[Evaluation, ...]:
    """Return evaluations after epochs 1, 2 …: the scores as f1 and as loss alike."""
    return tuple(
        Evaluation(epoch=i, step=10 * i, seconds=1.5 * i, metrics={"f1": score, "loss": score})
        for i, score in enumerate(scores, 1)
    )


def trial(number: int, *scores: float | None, **fields: Any) -> Trial:
    known = {"picks": {"x": number}, "params": {"x": number}, "seed": 42, "state": "finished"}
    return Trial(number=number, evaluations=evaluated(*scores), **known | fields)


def finalist(number: int, seed: int, score: float | None, **fields: Any) -> Trial:
    return trial(number, score, seed=seed, is_finalist=True, **fields)


def numbers(trials: list[Trial]) -> list[int]:
    return [t.number for t in trials]


# ------------------------------------------------------------------ one trial


@pytest.mark.parametrize(
    ("scores", "goal", "epoch", "score"),
    [
        ((0.3, 0.7, 0.5), F1, 2, 0.7),
        ((0.3, 0.7, 0.2), LOSS, 3, 0.2),
        ((0.7, 0.1, 0.7), F1, 1, 0.7),
        ((0.1, 0.7, 0.1), LOSS, 1, 0.1),
        ((None, 0.2, None), F1, 2, 0.2),
        ((None, 0.2, 0.1), LOSS, 3, 0.1),
        ((-0.5, -0.2), F1, 2, -0.2),
        ((0.0, None), LOSS, 1, 0.0),
    ],
)
def test_the_best_evaluation_is_the_first_of_equals(
    scores: Any, goal: Goal, epoch: int, score: float
) -> None:
    found = trial(0, *scores)
    best = found.best(goal)
    assert best is not None
    assert (best.epoch, best.step) == (epoch, 10 * epoch)
    assert found.score(goal) == score


@pytest.mark.parametrize("found", [trial(0), trial(0, None, None)])
def test_a_trial_without_a_finite_value_has_no_score(found: Trial) -> None:
    assert (found.best(F1), found.score(LOSS)) == (None, None)


def test_a_metric_that_was_not_measured_is_none() -> None:
    assert trial(0, 0.5).score(Goal(metric="ece", greater_is_better=False)) is None


def test_a_trial_lasts_until_its_last_evaluation() -> None:
    assert (trial(0, 0.1, 0.2).seconds, trial(0).seconds) == (3.0, 0.0)


def test_keys_name_number_and_seed_of_finalists() -> None:
    assert trial(3).key == "0003"
    assert finalist(12, 43, 0.1).key == "0012-seed43"


def test_what_is_no_finite_number_becomes_null() -> None:
    found = strict({"a": 0.5, "b": float("nan"), "c": float("inf"), "d": -float("inf"), "e": 0.0})
    assert found == {"a": 0.5, "b": None, "c": None, "d": None, "e": 0.0}


# ------------------------------------------------------------------ ranks


def test_ranks_are_by_the_best_value_and_then_by_number() -> None:
    trials = [trial(3, 0.5), trial(2, 0.2, 0.9, 0.1), trial(1, 0.5), trial(0, 0.4)]
    assert numbers(ranked(trials, F1)) == [2, 1, 3, 0]
    assert numbers(ranked(trials, LOSS)) == [2, 0, 1, 3]


def test_whoever_failed_or_was_not_measured_has_no_rank() -> None:
    trials = [
        trial(0, 0.9, state="failed"),
        trial(1, None),
        trial(2),
        trial(3, 0.1, state="stopped"),
        trial(4, 0.0, state="running"),
    ]
    assert numbers(ranked(trials, F1)) == [3, 4]
    assert numbers(ranked(trials, LOSS)) == [4, 3]


def test_finalists_are_the_best_with_each_seed() -> None:
    trials = [trial(0, 0.5), trial(1, 0.9), trial(2, 0.99, state="failed"), trial(3, 0.7)]
    found = finalists(trials, F1, top=2, seeds=[43, 44])
    assert [(t.number, t.seed) for t in found] == [(1, 43), (1, 44), (3, 43), (3, 44)]
    assert found[0] == Trial(
        number=1, picks={"x": 1}, params={"x": 1}, seed=43, is_finalist=True, state="running"
    )
    assert numbers(finalists(trials, F1, top=9, seeds=[1])) == [1, 3, 0]
    assert finalists([trial(0, None)], F1, top=3, seeds=[1]) == []


# ------------------------------------------------------------------ the winner


def test_finalists_stay_the_same_when_some_have_run() -> None:
    found = [trial(0, 0.9), trial(1, 0.8), trial(2, 0.7), finalist(1, 43, 0.99)]
    again = finalists(found, F1, 2, [43])
    assert [(t.number, t.seed) for t in again] == [(0, 43), (1, 43)]


def test_finalists_that_have_not_ended_do_not_count() -> None:
    found = [finalist(0, 43, 0.5), finalist(1, 43, 0.9, state="running")]
    assert mean_scores(found, F1) == {0: [0.5]}
    assert winner(found, F1) == found[0]


def test_without_finalists_the_best_trial_wins() -> None:
    trials = [trial(0, 0.4), trial(1, 0.6), trial(2, 0.8, state="failed"), trial(3, 0.6)]
    assert winner(trials, F1) == trials[1]
    assert winner(trials, LOSS) == trials[0]


def test_nobody_wins_where_all_failed() -> None:
    assert winner([trial(0, 0.4, state="failed"), trial(1, None)], F1) is None
    assert winner([], F1) is None


# Trial 0 was luckiest in the search; trial 1 has the best mean of its finalists, 0.72 to 0.70.
SEARCHED = [trial(0, 0.95), trial(1, 0.80), trial(2, 0.10)]
AGAIN = [
    finalist(0, 43, 0.60),
    finalist(0, 44, 0.80),
    finalist(0, 45, 0.70),
    finalist(1, 43, 0.73),
    finalist(1, 44, 0.75),
    finalist(1, 45, 0.68),
]


def test_the_mean_of_the_finalists_decides_and_the_seed_nearest_the_median_ships() -> None:
    assert mean_scores(SEARCHED + AGAIN, F1) == {0: [0.6, 0.8, 0.7], 1: [0.73, 0.75, 0.68]}
    found = winner(SEARCHED + AGAIN, F1)
    assert found is not None
    assert (found.number, found.seed, found.score(F1)) == (1, 43, 0.73)


def test_the_lowest_mean_wins_where_less_is_better() -> None:
    found = winner(SEARCHED + AGAIN, LOSS)
    assert found is not None
    assert (found.number, found.seed, found.score(LOSS)) == (0, 45, 0.70)


def test_one_lucky_seed_does_not_move_what_ships() -> None:
    scores = {43: 0.0, 44: 0.1, 45: 0.2, 46: 0.45, 47: 1.0}  # median 0.2, mean 0.35
    found = winner([finalist(1, seed, score) for seed, score in scores.items()], F1)
    assert found is not None
    assert found.seed == 45


def test_of_two_seeds_as_near_the_median_the_lower_ships() -> None:
    again = [finalist(4, 44, 0.25), finalist(4, 43, 0.75)]
    found = winner(again, F1)
    assert found is not None
    assert (found.number, found.seed) == (4, 43)


def test_of_equal_means_the_trial_proposed_first_wins() -> None:
    again = [finalist(7, 43, 0.5), finalist(2, 43, 0.5), finalist(5, 43, 0.5)]
    found = winner(again, F1)
    assert found is not None
    assert found.number == 2


def test_finalists_that_failed_neither_count_nor_ship() -> None:
    again = [
        finalist(0, 43, 0.99, state="failed"),
        finalist(0, 44, 0.50),
        finalist(1, 43, None),
        finalist(1, 44, 0.60),
    ]
    assert mean_scores(again, F1) == {0: [0.5], 1: [0.6]}
    found = winner([*SEARCHED, *again], F1)
    assert found is not None
    assert (found.number, found.seed) == (1, 44)


def test_the_search_alone_has_no_means() -> None:
    assert mean_scores(SEARCHED, F1) == {}


# ------------------------------------------------------------------ the table


def test_the_table_has_a_row_a_trial_with_its_learning_curve() -> None:
    params = {"training.learning_rate": 1e-4, "training.batch_size": 16}
    trials = [
        trial(0, 0.25, 0.75, None, params=params),
        trial(1, state="failed", reason="out of memory", params=params),
        finalist(0, 43, 0.5, params=params),
    ]
    found = table(trials, F1)
    kinds = map(str, found.schema.types)
    assert dict(zip(found.column_names, kinds, strict=True)) == {
        "trial": "int32",
        "finalist": "bool",
        "seed": "int64",
        "state": "string",
        "reason": "string",
        "epochs": "double",
        "seconds": "double",
        "f1": "double",
        "best_epoch": "double",
        "param.training.learning_rate": "double",
        "param.training.batch_size": "int64",
        "curve_epochs": "list<item: double>",
        "curve": "list<item: double>",
    }
    assert found.to_pylist() == [
        {
            "trial": 0,
            "finalist": False,
            "seed": 42,
            "state": "finished",
            "reason": None,
            "epochs": 3.0,
            "seconds": 4.5,
            "f1": 0.75,
            "best_epoch": 2.0,
            "param.training.learning_rate": 1e-4,
            "param.training.batch_size": 16,
            "curve_epochs": [1.0, 2.0, 3.0],
            "curve": [0.25, 0.75, None],
        },
        {
            "trial": 1,
            "finalist": False,
            "seed": 42,
            "state": "failed",
            "reason": "out of memory",
            "epochs": 0.0,
            "seconds": 0.0,
            "f1": None,
            "best_epoch": None,
            "param.training.learning_rate": 1e-4,
            "param.training.batch_size": 16,
            "curve_epochs": [],
            "curve": [],
        },
        {
            "trial": 0,
            "finalist": True,
            "seed": 43,
            "state": "finished",
            "reason": None,
            "epochs": 1.0,
            "seconds": 1.5,
            "f1": 0.5,
            "best_epoch": 1.0,
            "param.training.learning_rate": 1e-4,
            "param.training.batch_size": 16,
            "curve_epochs": [1.0],
            "curve": [0.5],
        },
    ]


def test_the_table_holds_the_metric_that_is_optimised() -> None:
    found = table([trial(0, 0.25, 0.75)], LOSS)
    assert "f1" not in found.column_names
    assert (found["loss"].to_pylist(), found["best_epoch"].to_pylist()) == ([0.25], [1.0])


PARAMS = [
    ([1, 2.5], pa.float64(), [1.0, 2.5]),
    ([1, 2], pa.int64(), [1, 2]),
    ([True, False], pa.bool_(), [True, False]),
    (["mlp", "#1"], pa.string(), ["mlp", "#1"]),
    (["auto", 0.001], pa.string(), ['"auto"', "0.001"]),
    ([True, 2], pa.string(), ["true", "2"]),
    ([[1, 2], None], pa.string(), ["[1, 2]", None]),
    ([None, "mlp"], pa.string(), [None, "mlp"]),
    ([None, 0.5], pa.float64(), [None, 0.5]),
]


@pytest.mark.parametrize(("values", "kind", "expected"), PARAMS)
def test_params_of_one_type_stay_and_mixed_ones_become_json(
    values: list[Any], kind: Any, expected: list[Any]
) -> None:
    found = table([trial(i, 0.5, params={"x": v}) for i, v in enumerate(values)], F1)["param.x"]
    assert found.type == kind
    assert found.to_pylist() == expected


def test_params_that_do_not_exist_in_a_trial_are_null() -> None:
    trials = [
        trial(0, 0.5, params={"loss": "bce"}),
        trial(1, 0.5, params={"loss": "focal", "loss[1].gamma": 2.0}),
    ]
    found = table(trials, F1)
    assert found["param.loss"].to_pylist() == ["bce", "focal"]
    assert found["param.loss[1].gamma"].to_pylist() == [None, 2.0]


# ------------------------------------------------------------------ what is kept


def test_trials_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    store = TrialStore(str(tmp_path))
    picks = {"training.learning_rate": 3e-4, "loss": 1, "loss[1].gamma": 2.5}
    params = {"training.learning_rate": 3e-4, "loss": "focal", "x": None}
    first = trial(0, 0.5, None, picks=picks, params=params)
    begun = Trial(number=1, picks={}, params={}, seed=42)
    assert store.read(begun) == begun
    for kept in (first, begun, finalist(0, 43, 0.5), trial(1, 0.1, state="failed", reason="é")):
        store.write(kept)
        assert store.read(Trial(**{**begun.dump(), **identity(kept)})) == kept
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert names == [
        *("trials/0000-seed43/trial.json", "trials/0000/trial.json", "trials/0001/trial.json"),
    ]
    assert json.loads((tmp_path / "trials/0000/trial.json").read_text())["picks"] == picks


def identity(kept: Trial) -> dict[str, Any]:
    """Return what names a trial's folder."""
    return {"number": kept.number, "seed": kept.seed, "is_finalist": kept.is_finalist}


def test_all_are_listed_by_number_and_then_by_seed(tmp_path: Path) -> None:
    store = TrialStore(str(tmp_path))
    assert store.all() == []
    again = [finalist(2, 10, 0.1), finalist(2, 9, 0.1), finalist(10, 9, 0.1)]
    for kept in [*again, trial(10_000), trial(9_999), trial(2), trial(10)]:
        store.write(kept)
    Path(store.place(trial(2)), "other.json").write_text("{}")
    found = [(t.number, t.seed, t.is_finalist) for t in store.all()]
    assert found == [
        *[(2, 42, False), (10, 42, False), (9_999, 42, False), (10_000, 42, False)],
        *[(2, 9, True), (2, 10, True), (10, 9, True)],
    ]


def test_a_trials_folders_lie_below_the_search(tmp_path: Path) -> None:
    store, kept = TrialStore(str(tmp_path)), finalist(3, 43, 0.5)
    assert store.place(kept) == f"{tmp_path}/trials/0003-seed43"
    for folder in (store.checkpoints(kept), store.weights(kept)):
        Path(folder).mkdir(parents=True)
        Path(folder, "model.safetensors").write_bytes(b"1")
    store.write(kept)
    store.forget_state(kept)
    assert sorted(p.name for p in Path(store.place(kept)).iterdir()) == ["best", "trial.json"]
    store.forget_weights(kept)
    store.forget_weights(kept)
    assert [p.name for p in Path(store.place(kept)).iterdir()] == ["trial.json"]


@pytest.mark.parametrize("content", ["{", '{"number": 1}', "[]"])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    store = TrialStore(str(tmp_path))
    store.write(trial(1))
    Path(store.place(trial(1)), "trial.json").write_text(content)
    with pytest.raises(DataError) as caught:
        store.all()
    (problem,) = caught.value.problems
    assert problem.path == f"{tmp_path}/trials/0001/trial.json"
    assert problem.remedy == "Delete its folder: the trial is then run again."
