"""Searched settings as numbers, for plot axes and for a regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from clftask.components.search.space import Distribution, LogUniform, RandInt
from clftask.report.format import NOT_SET, is_number, text
from clftask.tuning.trial_store import Trial

_NUM_TICKS = 5


@dataclass(frozen=True)
class Axis:
    """One setting, over all trials.

    Attributes:
        name: The setting.
        values: One number per trial: the value, its logarithm, or its category's index; below
            all others for trials without this setting.
        ticks: Tick labels by number.
    """

    name: str
    values: tuple[float, ...]
    ticks: dict[float, str]


def axes(distributions: dict[str, Distribution], trials: list[Trial]) -> list[Axis]:
    """Return one axis per setting that occurs in any trial.

    Args:
        distributions: The search space by setting, in the order of the axes.
        trials: The trials.
    """
    used = [name for name in distributions if any(name in t.params for t in trials)]
    return [_axis(name, distributions[name], trials) for name in used]


def _axis(name: str, distribution: Distribution, trials: list[Trial]) -> Axis:
    exist = [name in t.params for t in trials]
    values = [t.params[name] for t in trials if name in t.params]
    is_listed = distribution.is_listed or not all(map(is_number, values))
    found, ticks = _categories(values) if is_listed else _numbers(values, distribution)
    if not all(exist):
        low, high = min(ticks), max(ticks)
        below = low - (1 if is_listed else (high - low) / (_NUM_TICKS - 1))
        ticks = {below: NOT_SET, **ticks}
    numbers = iter(found)
    return Axis(name, tuple(next(numbers) if e else below for e in exist), ticks)


def _categories(values: list[Any]) -> tuple[list[float], dict[float, str]]:
    def order(value: Any) -> tuple[bool, float, str]:
        return not is_number(value), value if is_number(value) else 0, text(value)

    names = list(dict.fromkeys(text(value) for value in sorted(values, key=order)))
    return [float(names.index(text(v))) for v in values], {float(i): n for i, n in enumerate(names)}


def _numbers(values: list[Any], distribution: Distribution) -> tuple[list[float], dict[float, str]]:
    """Return numbers, and ticks over the distribution's range, extended to all values."""
    is_log = isinstance(distribution, LogUniform)
    ends = distribution.probes()
    low, high = min(ends[0], *values), max(ends[-1], *values)
    if is_log:
        values, low, high = [math.log10(v) for v in values], math.log10(low), math.log10(high)
    places = [low + (high - low) * i / (_NUM_TICKS - 1) for i in range(_NUM_TICKS)]
    if isinstance(distribution, RandInt):
        places = [float(round(place)) for place in places]
    return [float(v) for v in values], {p: f"{10**p:.2g}" if is_log else text(p) for p in places}
