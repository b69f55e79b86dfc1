"""Hyperparameter search: the space, who proposes from it, and who stops a trial early."""

from clftask.search.schedulers import Asha, Scheduler
from clftask.search.searchers import Random, Searcher
from clftask.search.space import AnyDistribution, Picks, Space

__all__ = ["AnyDistribution", "Asha", "Picks", "Random", "Scheduler", "Searcher", "Space"]
