"""Gates: bounds on a comparison's figures, for CI."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from clftask.errors import ConfigError, Problem

_ROUNDING = 1e-9  # 0.695 - 0.7 is slightly below -0.005
_GATE = re.compile(r"^\s*([a-z][a-z0-9_]*)\s*(>=|<=)\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)\s*$")


class GateOutcome(TypedDict):
    """A gate with the value of its figure, None if undefined, and whether it passed."""

    metric: str
    sign: str
    bound: float
    difference: float | None
    passed: bool


@dataclass(frozen=True)
class Gate:
    """A bound on a figure.

    Attributes:
        metric: The figure's name.
        sign: `>=`, or `<=` where lower is better.
        bound: The bound on the figure, or on the difference B − A.
    """

    metric: str
    sign: str
    bound: float

    def outcome(self, value: float | None) -> GateOutcome:
        """Check a value; one that is undefined (None) does not pass."""
        low, high = (self.bound, value) if self.sign == ">=" else (value, self.bound)
        is_met = low is not None and high is not None and high - low >= -_ROUNDING
        return {
            "metric": self.metric,
            "sign": self.sign,
            "bound": self.bound,
            "difference": value,
            "passed": is_met,
        }


def read_gates(
    texts: Sequence[str], known: Collection[str], lower_is_better: Collection[str]
) -> list[Gate]:
    """Read gates such as `macro_f1>=-0.005`.

    Args:
        texts: The gates as given on the command line.
        known: Names of the comparison's figures.
        lower_is_better: Names of the figures whose gates use `<=`.

    Raises:
        ConfigError: A gate is invalid, names an unknown figure, or has the wrong direction.
    """
    found: list[Gate] = []
    mistakes: list[Problem] = []
    for text in texts:
        try:
            found.append(_read(text, known, lower_is_better))
        except ConfigError as error:
            mistakes += error.problems
    if mistakes:
        raise ConfigError(*mistakes)
    return found


def metric_of(text: str) -> str:
    """Return the name before the sign of a gate."""
    return re.split("[<>=]", text, maxsplit=1)[0].strip()


def check_gates(gates: Sequence[Gate], figures: Mapping[str, float | None]) -> list[GateOutcome]:
    """Return gates with the values of their figures."""
    return [gate.outcome(figures[gate.metric]) for gate in gates]


def all_passed(gates: Sequence[GateOutcome]) -> bool:
    """Tell whether all gates passed; true without gates."""
    return all(gate["passed"] for gate in gates)


def _read(text: str, known: Collection[str], lower_is_better: Collection[str]) -> Gate:
    found = _GATE.match(text)
    try:
        metric, sign, bound = found[1], found[2], float(found[3])  # type: ignore[index]
    except (TypeError, ValueError):
        remedy = "Write it as macro_f1>=-0.005, or ece<=0.01."
        raise ConfigError(Problem("--gate", text, "must be metric>=number", remedy)) from None
    if metric not in known:
        remedy = f"Allowed: {', '.join(sorted(known))}."
        raise ConfigError(Problem("--gate", text, "unknown figure", remedy))
    wanted = "<=" if metric in lower_is_better else ">="
    if sign != wanted:
        better = "lower" if wanted == "<=" else "higher"
        remedy = f"Write {metric}{wanted}{bound:g}."
        raise ConfigError(Problem("--gate", text, f"{better} {metric} is better", remedy))
    return Gate(metric, sign, bound)
