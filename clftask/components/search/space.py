"""The search space: distributions over dotted paths of the training job.

A *pick* is what a searcher proposes: a number, or the index of a value in a choice. A value of
a choice can contain further (conditional) distributions: they exist only if that value is
picked, under a name such as `loss[1].gamma`.

To add a distribution: subclass `Distribution` and add the class to `AnyDistribution`.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from clftask.spec import Spec

Picks = dict[str, Any]


class Distribution(Spec):
    """Base class of the distributions."""

    kind: str
    is_listed: ClassVar[bool] = False  # a pick is an index of `values`
    is_continuous: ClassVar[bool] = False  # any number between two bounds

    @abstractmethod
    def draw(self, random: np.random.Generator) -> Any:
        """Return a random pick."""

    @abstractmethod
    def probes(self) -> list[Any]:
        """Return picks to validate a job with, lowest first: ends and one between, or all."""

    @abstractmethod
    def domain(self) -> Any:
        """Return the distribution as a search domain of Ray Tune."""

    @abstractmethod
    def suggest(self, trial: Any, name: str) -> Any:
        """Return the pick that an Optuna trial suggests."""

    def value(self, pick: Any) -> Any:
        """Return the value of a pick in the job."""
        return pick

    def clip(self, pick: Any) -> Any:
        """Return the nearest pick that the distribution allows, as a plain number."""
        low, high = self.probes()[0], self.probes()[-1]
        return type(low)(min(max(pick, low), high))

    def inside(self, pick: Any) -> dict[str, Distribution]:
        """Return the distributions inside a pick's value, by their path in it."""
        return {}


class _Range(Distribution):
    """Base class of distributions between two bounds."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        return self

    def probes(self) -> list[Any]:
        # The middle probe is no whole number, so that fields of whole numbers reject the range.
        return [self.low, self.low + (self.high - self.low) / math.pi, self.high]


class Uniform(_Range):
    """Any number from low to high."""

    kind: Literal["uniform"] = "uniform"
    is_continuous: ClassVar[bool] = True

    def draw(self, random: np.random.Generator) -> float:
        return float(random.uniform(self.low, self.high))

    def domain(self) -> Any:
        from ray import tune

        return tune.uniform(self.low, self.high)

    def suggest(self, trial: Any, name: str) -> Any:
        return trial.suggest_float(name, self.low, self.high)


class LogUniform(_Range):
    """Any number from low to high, uniform in its logarithm."""

    kind: Literal["loguniform"] = "loguniform"
    is_continuous: ClassVar[bool] = True
    low: float = Field(gt=0)

    def draw(self, random: np.random.Generator) -> float:
        found = math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        return float(self.clip(found))

    def domain(self) -> Any:
        from ray import tune

        return tune.loguniform(self.low, self.high)

    def suggest(self, trial: Any, name: str) -> Any:
        return trial.suggest_float(name, self.low, self.high, log=True)


class QUniform(_Range):
    """Multiples of q from low to high."""

    kind: Literal["quniform"] = "quniform"
    q: float = Field(gt=0)

    @model_validator(mode="after")
    def _on_the_grid(self) -> Self:
        if any(abs(end / self.q - round(end / self.q)) > 1e-6 for end in (self.low, self.high)):
            raise ValueError(f"low and high must be multiples of q ({self.q:g})")
        return self

    def draw(self, random: np.random.Generator) -> float:
        return self.clip(random.integers(round(self.low / self.q), round(self.high / self.q) + 1)
                         * self.q)  # fmt: skip

    def clip(self, pick: Any) -> float:
        found = min(max(round(pick / self.q) * self.q, self.low), self.high)
        return float(f"{found:.12g}")  # 0.30000000000000004 is 0.3

    def value(self, pick: Any) -> Any:
        """Return the number, as an int if all values are whole."""
        return int(pick) if self.low.is_integer() and self.q.is_integer() else pick

    def probes(self) -> list[Any]:
        return list(dict.fromkeys(map(self.clip, (self.low, self.low + self.q, self.high))))

    def domain(self) -> Any:
        from ray import tune

        return tune.quniform(self.low, self.high, self.q)

    def suggest(self, trial: Any, name: str) -> Any:
        return self.clip(trial.suggest_float(name, self.low, self.high, step=self.q))


class RandInt(Distribution):
    """Whole numbers from low to high, high excluded, as in NumPy and Ray Tune."""

    kind: Literal["randint"] = "randint"
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError("low must be below high, which is excluded")
        return self

    def draw(self, random: np.random.Generator) -> int:
        return int(random.integers(self.low, self.high))

    def probes(self) -> list[Any]:
        return sorted({self.low, self.high - 1})

    def clip(self, pick: Any) -> int:
        return int(super().clip(round(pick)))

    def domain(self) -> Any:
        from ray import tune

        return tune.randint(self.low, self.high)

    def suggest(self, trial: Any, name: str) -> Any:
        return trial.suggest_int(name, self.low, self.high - 1)


class _Listed(Distribution):
    """Base class of lists of values; a pick is an index."""

    is_listed: ClassVar[bool] = True
    values: tuple[Any, ...] = Field(min_length=1)

    @field_validator("values")
    @classmethod
    def _with_distributions(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        found = tuple(_parsed(value) for value in values)
        if any(found[i] == found[j] for i in range(len(found)) for j in range(i)):
            raise ValueError("contains a duplicate value")
        if any(isinstance(value, Distribution) for value in found):
            raise ValueError("a value cannot be a distribution, only a field within it can")
        return found

    def draw(self, random: np.random.Generator) -> int:
        return int(random.integers(len(self.values)))

    def probes(self) -> list[Any]:
        return list(range(len(self.values)))

    def value(self, pick: Any) -> Any:
        return self.values[pick]

    def domain(self) -> Any:
        from ray import tune

        return tune.choice(self.probes())

    def suggest(self, trial: Any, name: str) -> Any:
        return trial.suggest_categorical(name, self.probes())

    def inside(self, pick: Any) -> dict[str, Distribution]:
        return dict(_distributions(self.values[pick], ""))


class Choice(_Listed):
    """One of the values."""

    kind: Literal["choice"] = "choice"


class Grid(_Listed):
    """Each of the values in turn."""

    kind: Literal["grid"] = "grid"


AnyDistribution = Annotated[
    Uniform | LogUniform | QUniform | RandInt | Choice | Grid, Field(discriminator="kind")
]
_MEMBERS: TypeAdapter[Any] = TypeAdapter(AnyDistribution)
KINDS = {member.model_fields["kind"].default for member in get_args(get_args(AnyDistribution)[0])}


def _parsed(value: Any) -> Any:
    """Return a value of a choice with its nested distributions parsed."""
    if not isinstance(value, dict):
        return value
    kind = value.get("kind")
    if isinstance(kind, str) and kind in KINDS:
        try:
            return _MEMBERS.validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return {key: _parsed(inner) for key, inner in value.items()}


def _distributions(value: Any, path: str) -> Iterator[tuple[str, Distribution]]:
    if isinstance(value, Distribution):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _distributions(inner, f"{path}.{key}")


@dataclass(frozen=True)
class Space:
    """Distributions by their dotted path in the job."""

    paths: Mapping[str, Distribution]

    def ask(self, choose: Callable[[str, Distribution], Any]) -> Picks:
        """Return a pick for every name that exists, given the picks above it.

        Args:
            choose: A function from name and distribution to a pick.
        """
        picks: Picks = {}
        waiting = list(self.paths.items())
        while waiting:
            name, distribution = waiting.pop(0)
            picks[name] = choose(name, distribution)
            waiting += _below(name, distribution, picks[name])
        return picks

    def draw(self, random: np.random.Generator) -> Picks:
        """Return random picks."""
        return self.ask(lambda _, distribution: distribution.draw(random))

    def clip(self, picks: Picks) -> Picks:
        """Return picks as plain numbers within their distributions; other keys are kept."""
        names = self.names()
        return {k: names[k].clip(v) if k in names else v for k, v in picks.items()}

    def names(self) -> dict[str, Distribution]:
        """Return all distributions by name, including those inside choices."""
        found: dict[str, Distribution] = {}
        waiting = list(self.paths.items())
        while waiting:
            name, distribution = waiting.pop(0)
            found[name] = distribution
            if distribution.is_listed:
                for pick in distribution.probes():
                    waiting += _below(name, distribution, pick)
        return found

    def size(self) -> int:
        """Return the number of combinations of listed values, without enumerating them."""
        return math.prod(_size(distribution) for distribution in self.paths.values())

    def all(self) -> list[Picks]:
        """Return every combination of listed values, the last path varying fastest."""
        columns = [_all(name, distribution) for name, distribution in self.paths.items()]
        return [_merged(parts) for parts in itertools.product(*columns)]

    def probes(self) -> list[Picks]:
        """Return picks that contain every probe of every distribution at least once."""
        first = self.ask(lambda _, distribution: distribution.probes()[0])
        found = [first]
        for name, distribution in self.names().items():
            for pick in distribution.probes()[1:]:
                found.append(self._with(name, pick))
        return found

    def _with(self, name: str, pick: Any) -> Picks:
        """Return the first probes, except for one name and the choices above it."""

        def choose(other: str, distribution: Distribution) -> Any:
            if other == name:
                return pick
            if name.startswith(f"{other}["):
                return int(name[len(other) + 1 :].partition("]")[0])
            return distribution.probes()[0]

        return self.ask(choose)

    def values(self, picks: Picks) -> dict[str, Any]:
        """Return the value of every path, as in the job."""
        return {name: _filled(name, d, picks) for name, d in self.paths.items()}

    def params(self, picks: Picks) -> dict[str, Any]:
        """Return the picked values as plain data, one per name that exists.

        A mapping or list is shown as its kind if unique, else as its index.
        """
        names = self.names()
        exist = self.ask(lambda name, _: picks[name])
        return {name: _shown(names[name], pick) for name, pick in exist.items()}


def _below(name: str, distribution: Distribution, pick: Any) -> list[tuple[str, Distribution]]:
    return [(f"{name}[{pick}]{path}", d) for path, d in distribution.inside(pick).items()]


def _size(distribution: Distribution) -> int:
    within = (distribution.inside(pick).values() for pick in distribution.probes())
    return sum(math.prod(_size(inner) for inner in inners) for inners in within)


def _all(name: str, distribution: Distribution) -> list[Picks]:
    found = []
    for pick in distribution.probes():
        below = [_all(*pair) for pair in _below(name, distribution, pick)]
        found += [_merged(({name: pick}, *parts)) for parts in itertools.product(*below)]
    return found


def _merged(parts: Any) -> Picks:
    return {name: pick for part in parts for name, pick in part.items()}


def _filled(name: str, distribution: Distribution, picks: Picks) -> Any:
    """Return a pick's value with nested distributions replaced by their picked values."""
    pick = picks[name]

    def fill(value: Any, path: str) -> Any:
        if isinstance(value, Distribution):
            return _filled(path, value, picks)
        if isinstance(value, dict):
            return {key: fill(inner, f"{path}.{key}") for key, inner in value.items()}
        return value

    return fill(distribution.value(pick), f"{name}[{pick}]")


def _shown(distribution: Distribution, pick: Any) -> Any:
    def kind(of: Any) -> Any:
        return of.get("kind") if isinstance(of, dict) else None

    value = distribution.value(pick)
    if not isinstance(value, dict | list):
        return value
    kinds = [kind(distribution.value(other)) for other in distribution.probes()]
    return kind(value) if kind(value) and kinds.count(kind(value)) == 1 else f"#{pick}"
