"""Who proposes trials: one contract for every searcher, then grids and draws as literal picks."""

from __future__ import annotations

import copy
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from clftask.components.search.goal import Goal
from clftask.components.search.searchers import Searcher
from clftask.components.search.space import AnyDistribution, Space
from clftask.config.tune import TuneJob
from clftask.errors import Problem

DISTRIBUTION: TypeAdapter[Any] = TypeAdapter(AnyDistribution)
SEARCHER: TypeAdapter[Any] = TypeAdapter(Searcher)
MEMBERS = {
    member.model_fields["kind"].default: member
    for member in typing.get_args(typing.get_args(Searcher)[0])
}
every_member = pytest.mark.parametrize("kind", MEMBERS)

F1 = Goal(metric="micro_f1", greater_is_better=True)
LOSS = Goal(metric="loss", greater_is_better=False)

TRAIN = {
    "task": "multilabel",
    "data": {"train": "/d.csv", "text": "body", "labels": {"kind": "list", "column": "tags"}},
    "model": {"base": "pkg://some_package/model"},
}
RATE = {"kind": "loguniform", "low": 1e-5, "high": 1e-3}
WARMUP = {"kind": "quniform", "low": 0, "high": 0.5, "q": 0.1}
MLP = {"kind": "mlp", "hidden": {"kind": "choice", "values": [16, 32]}}
# 2 losses x (linear, mlp of 16, mlp of 32): 6 combinations, for searchers that need a list.
LISTED = {
    "loss": {"kind": "choice", "values": ["auto", "bce"]},
    "model.head": {"kind": "choice", "values": ["linear", MLP]},
}
HIDDEN = "model.head[1].hidden"
MIXED = {
    **LISTED,
    "training.learning_rate": RATE,
    "training.warmup": WARMUP,
    "training.weight_decay": {"kind": "uniform", "low": 0, "high": 0.1},
    "training.early_stopping.patience": {"kind": "randint", "low": 1, "high": 4},
    "training.head_learning_rate": {"kind": "choice", "values": ["auto", 1e-3]},
}


def space(paths: dict[str, Any]) -> Space:
    return Space({name: DISTRIBUTION.validate_python(d) for name, d in paths.items()})


def searched(kind: str) -> tuple[Any, Space]:
    """Return a searcher and the widest space of ours that it can search."""
    searcher = MEMBERS[kind]()
    mixed = space(MIXED)
    return searcher, space(LISTED) if searcher.problems(mixed, None) else mixed


def job_of(searched: Space) -> TuneJob:
    return TuneJob.load({"train": TRAIN, "space": {n: d.dump() for n, d in searched.paths.items()}})


def built(kind: str, goal: Goal = F1, seed: int = 7, known: Any = None) -> Any:
    """Return a searcher of Ray Tune; skips where its packages are not installed."""
    searcher, where = searched(kind)
    for package in [name for names in searcher.packages.values() for name in names]:
        pytest.importorskip(package)
    return searcher.build(where, goal, seed, [] if known is None else known)


def result(number: int) -> dict[str, Any]:
    """Return what a trial reports after its only epoch."""
    known = {"training_iteration": 1, "epoch": 1, "hyperband_info": {"budget": 1}}
    return {"micro_f1": number * 7 % 11 / 11, **known}


LEARNERS = [kind for kind in MEMBERS if MEMBERS[kind]().points(space(LISTED), None, 0) is None]
LISTERS = [kind for kind in MEMBERS if kind not in LEARNERS]
every_learner = pytest.mark.parametrize("kind", LEARNERS)
every_lister = pytest.mark.parametrize("kind", LISTERS)


# ------------------------------------------------------------------ every member


@every_member
def test_every_searcher_has_a_bare_name_and_searches_lists(kind: str) -> None:
    assert SEARCHER.validate_python(kind) == MEMBERS[kind]()
    assert SEARCHER.validate_python(MEMBERS[kind]().dump()) == MEMBERS[kind]()
    assert MEMBERS[kind]().problems(space(LISTED), None) == []


@every_lister
def test_points_are_those_of_the_seed_and_none_twice(kind: str) -> None:
    searcher, where = searched(kind)
    points = searcher.points(where, 6, 1)
    assert points == searcher.points(where, 6, 1)
    assert len(points) == 6
    assert all(points[i] != points[j] for i in range(6) for j in range(i))
    job = job_of(where)
    assert all(job.trial(picks).model.base == "pkg://some_package/model" for picks in points)
    assert all(where.clip(picks) == picks for picks in points)


@every_member
def test_the_number_of_trials_is_what_is_asked_for_or_all_or_16(kind: str) -> None:
    searcher, where = searched(kind)
    assert searcher.num_trials(where, 6, 1) == 6
    assert searcher.num_trials(where, None, 1) == (6 if kind == "grid" else 16)


@every_lister
def test_whoever_says_all_trials_at_once_builds_no_searcher(kind: str) -> None:
    assert built(kind) is None


@every_learner
def test_whoever_learns_builds_a_searcher_of_ray_tune(kind: str) -> None:
    from ray.tune.search import Searcher as RaySearcher

    up, down = built(kind, F1), built(kind, LOSS)
    assert isinstance(up, RaySearcher)
    assert [(s.metric, s.mode) for s in (up, down)] == [("micro_f1", "max"), ("loss", "min")]


@every_learner
def test_suggestions_are_plain_picks_that_make_training_jobs(kind: str) -> None:
    _, where = searched(kind)
    job, searcher = job_of(where), built(kind)
    for number in range(25):  # the last ones come from a model of the first
        picks = searcher.suggest(f"trial-{number}")
        assert {type(pick) for pick in picks.values()} <= {int, float}
        assert where.clip(picks) == picks
        trial = job.trial(picks)
        assert trial.training.warmup in (0, 0.1, 0.2, 0.3, 0.4, 0.5)
        assert 1e-5 <= trial.training.learning_rate <= 1e-3
        assert trial.training.early_stopping is not None
        assert trial.training.early_stopping.patience in (1, 2, 3)
        searcher.on_trial_result(f"trial-{number}", result(number))
        searcher.on_trial_complete(f"trial-{number}", result(number))


@every_learner
def test_the_seed_decides_what_is_suggested_first(kind: str) -> None:
    def first(seed: int) -> list[Any]:
        searcher = built(kind, seed=seed)
        return [searcher.suggest(f"trial-{i}") for i in range(3)]

    assert first(7) == first(7)
    assert first(7) != first(8)


@every_learner
def test_known_trials_are_proposed_first_and_in_order(kind: str) -> None:
    head = {"training.early_stopping.patience": 2, "training.head_learning_rate": 1}
    head |= {"training.weight_decay": 0.05, "model.head": 1, HIDDEN: 0}
    known = [
        head | {"training.learning_rate": 2e-4, "training.warmup": 0.3, "loss": 1},
        head | {"training.learning_rate": 1e-5, "training.warmup": 0.0, "loss": 0},
        head | {"training.learning_rate": 1e-3, "training.warmup": 0.5, "loss": 1},
    ]
    before = copy.deepcopy(known)
    searcher = built(kind, known=known)
    found = [searcher.suggest(f"trial-{i}") for i in range(5)]
    assert found[:3] == before
    assert known == before
    assert found[3] not in before
    assert found[4] not in before


@every_learner
def test_a_grid_is_refused_by_name(kind: str) -> None:
    where = space(LISTED | {"training.batch_size": {"kind": "grid", "values": [16, 32]}})
    assert MEMBERS[kind]().problems(where, None) == [
        Problem(
            "space.training.batch_size",
            "grid",
            f"kind grid requires searcher grid or random, not {kind}",
            "Use choice.",
        )
    ]


@every_member
def test_the_extra_that_installs_its_packages_exists(kind: str) -> None:
    extras = tomllib.loads(Path(__file__).parents[3].joinpath("pyproject.toml").read_text())
    assert MEMBERS[kind].packages.keys() <= extras["project"]["optional-dependencies"].keys()


def test_optuna_is_asked_only_for_what_exists() -> None:
    searcher = built("optuna")
    found = [searcher.suggest(f"trial-{i}") for i in range(20)]
    assert {HIDDEN in picks for picks in found} == {True, False}
    assert all((HIDDEN in picks) == (picks["model.head"] == 1) for picks in found)


# ------------------------------------------------------------------ grid


def test_a_grid_is_every_combination_in_order() -> None:
    grid = MEMBERS["grid"]()
    assert grid.points(space(LISTED), None, 1) == [
        {"loss": 0, "model.head": 0},
        {"loss": 0, "model.head": 1, HIDDEN: 0},
        {"loss": 0, "model.head": 1, HIDDEN: 1},
        {"loss": 1, "model.head": 0},
        {"loss": 1, "model.head": 1, HIDDEN: 0},
        {"loss": 1, "model.head": 1, HIDDEN: 1},
    ]
    assert grid.problems(space(LISTED), 6) == []


def test_a_grid_takes_all_of_its_trials_or_is_refused() -> None:
    remedy = "Remove trials, or use searcher: random."
    wrong = [Problem("trials", 5, "the grid has 6 combinations", remedy)]
    assert MEMBERS["grid"]().problems(space(LISTED), 5) == wrong


def test_a_grid_needs_lists_within_values_too() -> None:
    mlp = {"kind": "mlp", "hidden": {"kind": "randint", "low": 8, "high": 33}}
    head = {"kind": "choice", "values": ["linear", mlp]}
    found = MEMBERS["grid"]().problems(
        space({"training.learning_rate": RATE, "model.head": head}), trials=4
    )
    assert [(p.path, p.value) for p in found] == [
        ("space.training.learning_rate", "loguniform"),
        ("space.model.head[1].hidden", "randint"),
    ]
    assert found[0].allowed == "the grid searcher requires kind grid or choice"


# ------------------------------------------------------------------ random


def picks_of(paths: dict[str, Any], trials: int | None, seed: int = 1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = MEMBERS["random"]().points(space(paths), trials, seed)
    return found


def test_random_draws_are_literally_those_of_the_seed() -> None:
    paths = {"training.batch_size": {"kind": "choice", "values": [8, 16, 32]}, "x": WARMUP}
    assert picks_of(paths, 3, seed=42) == [
        {"training.batch_size": 0, "x": 0.4},
        {"training.batch_size": 1, "x": 0.2},
        {"training.batch_size": 1, "x": 0.5},
    ]


def test_random_takes_the_values_of_a_grid_in_turn() -> None:
    batch = {"kind": "grid", "values": [16, 32, 64]}
    found = picks_of({"training.learning_rate": RATE, "training.batch_size": batch}, 7)
    assert [picks["training.batch_size"] for picks in found] == [0, 1, 2, 0, 1, 2, 0]
    assert len({picks["training.learning_rate"] for picks in found}) == 7


def test_random_takes_combinations_of_grids_in_turn() -> None:
    two = {"kind": "grid", "values": ["a", "b"]}
    found = picks_of({"x": two, "y": two, "training.learning_rate": RATE}, 6)
    assert [(p["x"], p["y"]) for p in found] == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1)]


def test_random_draws_none_twice_and_stops_where_there_are_no_more() -> None:
    found = picks_of(LISTED, trials=None)
    key = [(picks["loss"], picks["model.head"], picks.get(HIDDEN)) for picks in found]
    assert sorted(key, key=str) == [
        *[(0, 0, None), (0, 1, 0), (0, 1, 1)],
        *[(1, 0, None), (1, 1, 0), (1, 1, 1)],
    ]
    assert len(picks_of(LISTED, trials=4)) == 4


def test_a_grid_value_that_is_used_up_leaves_its_turns_to_the_others() -> None:
    focal = {"kind": "focal", "gamma": {"kind": "uniform", "low": 1, "high": 5}}
    found = picks_of({"loss": {"kind": "grid", "values": ["bce", focal]}}, trials=6)
    assert [picks["loss"] for picks in found] == [0, 1, 1, 1, 1, 1]
    gammas = [picks["loss[1].gamma"] for picks in found[1:]]
    assert len(set(gammas)) == 5
    assert all(1 < gamma < 5 for gamma in gammas)


def test_what_lies_within_a_grid_value_does_not_count_as_the_grid() -> None:
    mlp = {"kind": "mlp", "hidden": {"kind": "randint", "low": 8, "high": 512}}
    where = space({"model.head": {"kind": "grid", "values": ["linear", mlp]}})
    assert MEMBERS["random"]().problems(where, 2) == []
    (problem,) = MEMBERS["random"]().problems(where, 1)
    assert problem == Problem(
        "trials",
        1,
        "the grid alone has 2 combinations",
        "Set trials: 2, or searcher: grid.",
    )


def test_16_random_trials_do_not_hold_a_grid_of_20() -> None:
    where = space({"x": {"kind": "grid", "values": list(range(20))}})
    (problem,) = MEMBERS["random"]().problems(where, None)
    assert (problem.path, problem.value) == ("trials", 16)
    assert MEMBERS["random"]().problems(where, 20) == []


@pytest.mark.parametrize("kind", ["grid", "random"])
def test_a_grid_that_nobody_could_try_is_refused_before_it_is_made(kind: str) -> None:
    twenty = {"kind": "grid", "values": list(range(20))}
    (problem,) = MEMBERS[kind]().problems(space({f"x{i}": twenty for i in range(5)}), None)
    assert (problem.path, problem.value) == ("space", None)
    assert problem.allowed == "its grid has 3,200,000 combinations; at most 10,000 are allowed"


def test_thousands_of_random_draws_are_all_different() -> None:
    paths = {"training.learning_rate": RATE, "x": {"kind": "grid", "values": list(range(50))}}
    found = picks_of(paths, 10_000)
    assert len({(picks["training.learning_rate"], picks["x"]) for picks in found}) == 10_000
