"""Searchers propose trials from a space, by seed.

To add one: subclass `SearcherSpec`, implement `points` or `build`, and add the class to
`Searcher`.
"""

from __future__ import annotations

import collections
import warnings
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from clftask.components.search.goal import Goal
from clftask.components.search.space import Grid as GridDistribution
from clftask.components.search.space import Picks, Space
from clftask.errors import Problem
from clftask.spec import BareKind, Spec

DEFAULT_TRIALS = 16
MAX_TRIALS = 10_000
_DRAWS_PER_TRIAL = 100


class SearcherSpec(Spec):
    """Base class of the searchers.

    Attributes:
        packages: Required packages, by the pip extra that installs them.
    """

    kind: str
    packages: ClassVar[dict[str, tuple[str, ...]]] = {}

    def problems(self, space: Space, trials: int | None) -> list[Problem]:
        """Return why this searcher does not support a space."""
        grids = [name for name, d in space.names().items() if isinstance(d, GridDistribution)]
        allowed = f"kind grid requires searcher grid or random, not {self.kind}"
        return [Problem(f"space.{name}", "grid", allowed, "Use choice.") for name in grids]

    def points(self, space: Space, trials: int | None, seed: int) -> list[Picks] | None:
        """Return all trials in advance; None if proposals depend on results."""
        return None

    def num_trials(self, space: Space, trials: int | None, seed: int) -> int:
        """Return the number of trials."""
        points = self.points(space, trials, seed)
        return len(points) if points is not None else trials or DEFAULT_TRIALS

    def build(self, space: Space, goal: Goal, seed: int, known: list[Picks]) -> Any:
        """Return a searcher of Ray Tune, None if `points` returns all trials.

        Args:
            space: The search space.
            goal: The metric and its direction.
            seed: Random seed.
            known: Trials that were started before; they are proposed again, first.
        """
        return None


class Random(SearcherSpec):
    """Independent draws without duplicates; the values of a grid are used in turn."""

    kind: Literal["random"] = "random"

    def problems(self, space: Space, trials: int | None) -> list[Problem]:
        """Reject fewer trials than the grid has combinations."""
        if _grids(space).size() > MAX_TRIALS:
            return [_too_many(_grids(space))]
        size, wanted = len(_grid(space)), trials or DEFAULT_TRIALS
        if size <= wanted:
            return []
        remedy = f"Set trials: {size}, or searcher: grid."
        return [Problem("trials", wanted, f"the grid alone has {size} combinations", remedy)]

    def points(self, space: Space, trials: int | None, seed: int) -> list[Picks]:
        """Return the draws; fewer than `trials` if the space has no more."""
        wanted, random = trials or DEFAULT_TRIALS, np.random.default_rng(seed)
        turn = collections.deque(_grid(space))
        num_draws = wanted * _DRAWS_PER_TRIAL // len(turn)
        found: dict[Any, Picks] = {}
        while turn and len(found) < wanted:
            fixed = turn.popleft()
            draws = (_drawn(space, fixed, random) for _ in range(num_draws))
            picks = next((picks for picks in draws if _key(picks) not in found), None)
            if picks is not None:
                found[_key(picks)] = picks
                turn.append(fixed)
        return list(found.values())


class Grid(SearcherSpec):
    """Every combination of the listed values."""

    kind: Literal["grid"] = "grid"

    def problems(self, space: Space, trials: int | None) -> list[Problem]:
        """Reject distributions without a list of values, and other numbers of trials."""
        allowed = "the grid searcher requires kind grid or choice"
        found = [
            Problem(f"space.{name}", d.kind, allowed, "List its values, or use searcher: random.")
            for name, d in space.names().items()
            if not d.is_listed
        ]
        if found:
            return found
        size = space.size()
        if size > MAX_TRIALS:
            return [_too_many(space)]
        if trials not in (None, size):
            remedy = "Remove trials, or use searcher: random."
            found = [Problem("trials", trials, f"the grid has {size} combinations", remedy)]
        return found

    def points(self, space: Space, trials: int | None, seed: int) -> list[Picks]:
        return space.all()


class Optuna(SearcherSpec):
    """Tree-structured Parzen estimator (Bergstra et al., 2011), by Optuna."""

    kind: Literal["optuna"] = "optuna"
    packages = {"optuna": ("optuna",)}

    def build(self, space: Space, goal: Goal, seed: int, known: list[Picks]) -> Any:
        """Return OptunaSearch with a define-by-run space, so that conditional names work."""
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)

        def define(trial: Any) -> None:
            space.ask(lambda name, distribution: distribution.suggest(trial, name))

        return _within(space, OptunaSearch)(
            space=define,
            metric=goal.metric,
            mode=goal.mode,
            sampler=sampler,
            points_to_evaluate=known or None,
        )


class HyperOpt(SearcherSpec):
    """Tree-structured Parzen estimator by HyperOpt; conditional names are always drawn."""

    kind: Literal["hyperopt"] = "hyperopt"
    packages = {"hyperopt": ("hyperopt",)}

    def build(self, space: Space, goal: Goal, seed: int, known: list[Picks]) -> Any:
        from ray.tune.search.hyperopt import HyperOptSearch

        return _within(space, HyperOptSearch)(
            space={name: d.domain() for name, d in space.names().items()},
            metric=goal.metric,
            mode=goal.mode,
            random_state_seed=seed,
            points_to_evaluate=known or None,
        )


class Bohb(SearcherSpec):
    """Kernel density model of BOHB (Falkner et al., 2018); conditional names are always drawn."""

    kind: Literal["bohb"] = "bohb"
    packages = {"bohb": ("hpbandster", "ConfigSpace")}

    def build(self, space: Space, goal: Goal, seed: int, known: list[Picks]) -> Any:
        from ray.tune.search.bohb import TuneBOHB

        return _within(space, TuneBOHB)(
            space={name: d.domain() for name, d in space.names().items()},
            metric=goal.metric,
            mode=goal.mode,
            seed=seed,
            points_to_evaluate=list(known) or None,  # TuneBOHB removes them from the list
        )


Searcher = Annotated[
    Random | Grid | Optuna | HyperOpt | Bohb, Field(discriminator="kind"), BareKind()
]


def _grids(space: Space) -> Space:
    """Return the paths of a space whose distributions are grids."""
    return Space({n: d for n, d in space.paths.items() if isinstance(d, GridDistribution)})


def _too_many(space: Space) -> Problem:
    """Return the problem of a grid that could exceed the memory."""
    allowed = f"its grid has {space.size():,} combinations; at most {MAX_TRIALS:,} are allowed"
    return Problem("space", None, allowed, "List fewer values, or use choice and searcher: random.")


def _grid(space: Space) -> list[Picks]:
    """Return every combination of grid values; distributions inside them are drawn later."""
    grids = _grids(space)
    listed = {n for n, d in grids.names().items() if isinstance(d, GridDistribution)}
    found = [{n: pick for n, pick in picks.items() if n in listed} for picks in grids.all()]
    return list({_key(picks): picks for picks in found}.values())


def _key(picks: Picks) -> Any:
    """Return a hashable key of picks."""
    return frozenset(picks.items())


def _drawn(space: Space, fixed: Picks, random: np.random.Generator) -> Picks:
    return space.ask(lambda name, d: fixed[name] if name in fixed else d.draw(random))


def _within(space: Space, searcher: Any) -> Any:
    """Return a Ray Tune searcher whose picks are plain numbers within the space.

    TuneBOHB proposes NumPy integers and ignores quantization; others quantize inexactly.
    """

    class Within(searcher):  # type: ignore[misc]
        def suggest(self, trial_id: str) -> Any:
            found = super().suggest(trial_id)
            return space.clip(found) if isinstance(found, dict) else found

    return Within
