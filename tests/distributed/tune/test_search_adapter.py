"""The numbers of trials that a list or a searcher proposes, without Ray."""

from __future__ import annotations

import pickle
from typing import Any

from ray.tune.search import Searcher

from clftask.components.search.goal import Goal
from clftask.distributed.tune.search_adapter import Proposals

GOAL = Goal(metric="loss", greater_is_better=False)


class Counting(Searcher):
    """Proposes 10, 20 …; has nothing to propose the third time, and ends with the sixth."""

    def __init__(self) -> None:
        super().__init__(metric="loss", mode="min")
        self.count, self.told = 0, []  # type: ignore[var-annotated]

    def suggest(self, trial_id: str) -> Any:
        self.count += 1
        return {3: None, 6: Searcher.FINISHED}.get(self.count, {"rate": 10 * self.count})

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.told.append((trial_id, result, error))


def test_a_list_is_proposed_in_order_and_then_nothing() -> None:
    proposals = Proposals(GOAL, [{"trial": 4, "rate": 1}, {"trial": 2, "rate": 3}])
    assert [proposals.suggest(f"t{i}") for i in range(2)] == [
        {"trial": 4, "rate": 1},
        {"trial": 2, "rate": 3},
    ]
    assert proposals.suggest("t2") == Searcher.FINISHED
    proposals.on_trial_complete("t0", {"loss": 1.0})
    assert (proposals.metric, proposals.mode) == ("loss", "min")


def test_a_searcher_gets_the_known_numbers_and_then_unused_ones() -> None:
    proposals = Proposals(GOAL, searcher=Counting(), known=[3, 0])
    found = [proposals.suggest(f"t{i}") for i in range(6)]
    assert found == [
        {"trial": 3, "rate": 10},
        {"trial": 0, "rate": 20},
        None,
        {"trial": 1, "rate": 40},
        {"trial": 2, "rate": 50},
        Searcher.FINISHED,
    ]


def test_results_reach_the_searcher_though_it_does_not_count_pauses() -> None:
    searcher = Counting()
    proposals = Proposals(GOAL, searcher=searcher)
    proposals.on_pause("t0")
    proposals.on_unpause("t0")
    proposals.on_trial_complete("t0", {"loss": 1.0}, error=True)
    assert searcher.told == [("t0", {"loss": 1.0}, True)]


def test_it_is_pickled_as_tune_does_with_its_state() -> None:
    proposals = Proposals(GOAL, searcher=Counting(), known=[1])
    proposals.suggest("t0")
    again = pickle.loads(pickle.dumps(proposals))
    assert again.suggest("t1") == {"trial": 0, "rate": 20}
