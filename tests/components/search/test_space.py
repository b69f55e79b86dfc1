"""What a search may draw from: one contract for every distribution, and spaces as literal picks."""

from __future__ import annotations

import json
import typing
from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from clftask.components.search.space import AnyDistribution, Space

ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyDistribution)
MEMBERS = {
    member.model_fields["kind"].default: member
    for member in typing.get_args(typing.get_args(AnyDistribution)[0])
}
# What a member may require; one that requires something else needs an example here.
NARROW = {"low": 1, "high": 2, "q": 1, "values": ["only"]}
WIDE = {"low": 2, "high": 10, "q": 2, "values": ["a", None, 0.5, {"kind": "mlp", "hidden": 8}]}
FINE = {"low": 1, "high": 8, "q": 0.1, "values": list(range(50))}
EXAMPLES = {"narrow": NARROW, "wide": WIDE, "fine": FINE}

every_example = pytest.mark.parametrize("example", EXAMPLES)
every_member = pytest.mark.parametrize("kind", MEMBERS)


def read(kind: str, **fields: Any) -> Any:
    return ADAPTER.validate_python({"kind": kind, **fields})


def a_distribution(kind: str, example: str) -> Any:
    required = [name for name, f in MEMBERS[kind].model_fields.items() if f.is_required()]
    return read(kind, **{name: EXAMPLES[example][name] for name in required})


def draws(distribution: Any, seed: int, count: int = 300) -> list[Any]:
    random = np.random.default_rng(seed)
    return [distribution.draw(random) for _ in range(count)]


def space(**paths: Any) -> Space:
    """Return a space; `model__head` stands for model.head."""
    return Space({k.replace("__", "."): ADAPTER.validate_python(d) for k, d in paths.items()})


# ------------------------------------------------------------------ every member


@every_example
@every_member
def test_draws_lie_between_the_ends(kind: str, example: str) -> None:
    distribution = a_distribution(kind, example)
    probes = distribution.probes()
    for pick in draws(distribution, seed=1):
        assert type(pick) in (int, float)
        assert probes[0] <= pick <= probes[-1]
        assert distribution.clip(pick) == pick


@every_member
def test_the_seed_decides_and_draws_differ(kind: str) -> None:
    distribution = a_distribution(kind, "fine")
    assert draws(distribution, seed=1) == draws(distribution, seed=1)
    assert draws(distribution, seed=1) != draws(distribution, seed=2)
    assert len(set(draws(distribution, seed=1))) >= 7


@every_example
@every_member
def test_every_probe_is_a_pick_and_the_lowest_is_first(kind: str, example: str) -> None:
    distribution = a_distribution(kind, example)
    probes = distribution.probes()
    assert probes == sorted(set(probes))
    assert [distribution.clip(pick) for pick in probes] == probes


@every_example
@every_member
def test_clip_gives_the_nearest_plain_number_inside(kind: str, example: str) -> None:
    distribution = a_distribution(kind, example)
    probes = distribution.probes()
    assert (distribution.clip(-1000), distribution.clip(1000)) == (probes[0], probes[-1])
    for pick in [0.0, 1.3, np.float64(2.7), np.int64(3), np.float32(7.49), 9]:
        once = distribution.clip(pick)
        assert type(once) in (int, float)
        assert probes[0] <= once <= probes[-1]
        assert distribution.clip(once) == once


@every_example
@every_member
def test_domain_is_of_ray_tune_and_samples_lie_inside(kind: str, example: str) -> None:
    from ray.tune.search.sample import Domain

    distribution = a_distribution(kind, example)
    domain = distribution.domain()
    assert isinstance(domain, Domain)
    for sample in domain.sample(size=200, random_state=3):
        assert distribution.clip(sample) == pytest.approx(sample, abs=1e-9)


@every_example
@every_member
def test_optuna_suggests_what_lies_inside(kind: str, example: str) -> None:
    optuna = pytest.importorskip("optuna")
    distribution = a_distribution(kind, example)
    for pick in suggested(distribution, count=40):
        assert distribution.clip(pick) == pick
    for pick in distribution.probes():
        assert distribution.suggest(optuna.trial.FixedTrial({"x": pick}), "x") == pick


@every_example
@every_member
def test_a_distribution_survives_json(kind: str, example: str) -> None:
    distribution = a_distribution(kind, example)
    assert ADAPTER.validate_python(json.loads(json.dumps(distribution.dump()))) == distribution


@every_member
def test_every_pick_stands_for_a_value(kind: str) -> None:
    distribution = a_distribution(kind, "wide")
    for pick in draws(distribution, seed=1, count=50):
        value = distribution.value(pick)
        assert 2 <= value <= 10 if hasattr(distribution, "low") else value in WIDE["values"]


# ------------------------------------------------------------------ numbers


def test_uniform_is_uniform() -> None:
    found = draws(read("uniform", low=-1, high=3), seed=1, count=2000)
    assert Counter(int(pick + 1) for pick in found).keys() == {0, 1, 2, 3}
    assert 0.95 < np.mean(found) < 1.05


def suggested(distribution: Any, count: int) -> list[Any]:
    """Return what Optuna suggests at random."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [distribution.suggest(study.ask(), "x") for _ in range(count)]


@pytest.mark.parametrize("source", ["draw", "domain", "suggest"])
def test_loguniform_gives_every_order_of_magnitude_alike(source: str) -> None:
    rates = read("loguniform", low=1e-5, high=1e-1)
    found = {
        "draw": lambda: draws(rates, seed=1, count=1000),
        "domain": lambda: rates.domain().sample(size=1000, random_state=1),
        "suggest": lambda: suggested(rates, count=1000),
    }[source]()
    orders = Counter(int(np.floor(np.log10(pick))) for pick in found)
    assert orders.keys() == {-5, -4, -3, -2}
    assert all(200 < count < 300 for count in orders.values())


def test_quniform_gives_exact_steps_ends_included() -> None:
    tenths = read("quniform", low=0, high=0.5, q=0.1)
    assert sorted(set(draws(tenths, seed=1))) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert tenths.clip(0.1 + 0.2) == 0.3
    assert (tenths.clip(0.26), tenths.clip(0.249), tenths.clip(0.9)) == (0.3, 0.2, 0.5)
    assert tenths.probes() == [0.0, 0.1, 0.5]
    fives = read("quniform", low=-10, high=5, q=5)
    assert sorted(set(draws(fives, seed=1))) == [-10, -5, 0, 5]
    assert read("quniform", low=0, high=0.1, q=0.1).probes() == [0.0, 0.1]


def test_randint_leaves_high_out() -> None:
    whole = read("randint", low=3, high=6)
    assert sorted(set(draws(whole, seed=1))) == [3, 4, 5]
    assert whole.probes() == [3, 5]
    assert (whole.clip(6), whole.clip(4.6), whole.clip(2)) == (5, 5, 3)
    assert set(whole.domain().sample(size=100, random_state=1)) == {3, 4, 5}


@pytest.mark.parametrize("kind", ["uniform", "loguniform"])
def test_a_number_of_a_range_is_tried_that_is_not_whole(kind: str) -> None:
    low, between, high = read(kind, low=16, high=64).probes()
    assert (low, high) == (16, 64)
    assert 16 < between < 64
    assert between != int(between)


# ------------------------------------------------------------------ listed values

MIXED = (0.1, "auto", None, False, 3, {"kind": "mlp"}, [1, 2])


@pytest.mark.parametrize("kind", ["choice", "grid"])
def test_values_of_mixed_types_stay_what_they_are(kind: str) -> None:
    listed = read(kind, values=list(MIXED))
    assert [listed.value(pick) for pick in listed.probes()] == list(MIXED)
    assert [type(listed.value(pick)) for pick in listed.probes()] == [type(v) for v in MIXED]
    assert set(draws(listed, seed=1)) == set(range(7))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"kind": "uniform", "low": 1, "high": 1}, "low must be below high"),
    ({"kind": "loguniform", "low": 0, "high": 1}, "greater than 0"),
    ({"kind": "quniform", "low": 0, "high": 1, "q": 0}, "greater than 0"),
    ({"kind": "quniform", "low": 0, "high": 0.5, "q": 0.2}, r"multiples of q \(0.2\)"),
    ({"kind": "quniform", "low": 0.1, "high": 0.6, "q": 0.2}, r"multiples of q \(0.2\)"),
    ({"kind": "randint", "low": 4, "high": 4}, "low must be below high, which is excluded"),
    ({"kind": "randint", "low": 0.5, "high": 4}, "integer"),
    ({"kind": "uniform", "low": 0, "high": float("inf")}, "finite"),
    ({"kind": "uniform", "low": 0, "high": 1, "q": 0.1}, "Extra inputs"),
    ({"kind": "choice", "values": []}, "at least 1 item"),
    ({"kind": "choice", "values": ["a", "b", "a"]}, "contains a duplicate value"),
    ({"kind": "grid", "values": [{"a": 1}, {"a": 1}]}, "contains a duplicate value"),
    (
        {"kind": "choice", "values": ["a", {"kind": "uniform", "low": 0, "high": 1}]},
        "a value cannot be a distribution",
    ),
    (
        {"kind": "choice", "values": [{"kind": "mlp", "p": {"kind": "randint", "low": 4}}]},
        r"high: Field required",
    ),
    (
        {"kind": "grid", "values": [{"a": {"kind": "choice", "values": [2, 2]}}]},
        "contains a duplicate value",
    ),
]


@pytest.mark.parametrize(("fields", "reason"), REFUSED)
def test_a_distribution_refuses(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ADAPTER.validate_python(fields)


# ------------------------------------------------------------------ spaces

RATE = {"kind": "loguniform", "low": 1e-5, "high": 1e-3}
LOSSES = ["bce", {"kind": "focal", "gamma": {"kind": "uniform", "low": 1, "high": 5}}]
GELU = {"kind": "gelu", "slope": {"kind": "randint", "low": 1, "high": 4}}
MLP = {"kind": "mlp", "hidden": 8, "act": {"kind": "choice", "values": ["relu", GELU]}}

CONDITIONAL = space(
    training__learning_rate=RATE,
    loss={"kind": "choice", "values": LOSSES},
    model__head={"kind": "choice", "values": ["linear", MLP]},
)
GAMMA, ACT = "loss[1].gamma", "model.head[1].act"
SLOPE = "model.head[1].act[1].slope"
TOP = ["training.learning_rate", "loss", "model.head"]


def test_what_lies_within_a_value_is_asked_for_only_where_it_is_picked() -> None:
    def asked(**answers: int) -> list[str]:
        return list(CONDITIONAL.ask(lambda name, _: answers.get(name.split(".")[-1], 0)))

    assert asked() == TOP
    assert asked(loss=1) == [*TOP, GAMMA]
    assert asked(head=1) == [*TOP, ACT]
    assert asked(loss=1, head=1, act=1) == [*TOP, GAMMA, ACT, SLOPE]


def test_names_are_those_of_all_values() -> None:
    kinds = {name: d.kind for name, d in CONDITIONAL.names().items()}
    assert kinds == {
        "training.learning_rate": "loguniform",
        "loss": "choice",
        "model.head": "choice",
        "loss[1].gamma": "uniform",
        "model.head[1].act": "choice",
        "model.head[1].act[1].slope": "randint",
    }


def test_draws_have_conditional_picks_under_their_choice_alone() -> None:
    random = np.random.default_rng(1)
    found = [CONDITIONAL.draw(random) for _ in range(200)]
    for picks in found:
        assert (GAMMA in picks) == (picks["loss"] == 1)
        assert (ACT in picks) == (picks["model.head"] == 1)
        assert (SLOPE in picks) == (picks.get(ACT) == 1)
    for name in (GAMMA, ACT, SLOPE):
        assert 20 < sum(name in picks for picks in found) < 130
    again = np.random.default_rng(1)
    assert [CONDITIONAL.draw(again) for _ in range(200)] == found


def test_all_is_the_product_with_the_last_path_turning_fastest() -> None:
    act = {"kind": "choice", "values": ["relu", "gelu"]}
    head = {"kind": "choice", "values": ["linear", {"kind": "mlp", "act": act}]}
    grid = space(model__head=head, batch={"kind": "grid", "values": [16, 32]})
    assert grid.all() == [
        {"model.head": 0, "batch": 0},
        {"model.head": 0, "batch": 1},
        {"model.head": 1, "model.head[1].act": 0, "batch": 0},
        {"model.head": 1, "model.head[1].act": 0, "batch": 1},
        {"model.head": 1, "model.head[1].act": 1, "batch": 0},
        {"model.head": 1, "model.head[1].act": 1, "batch": 1},
    ]
    assert space().all() == [{}]
    assert (grid.size(), space().size()) == (6, 1)


def test_the_size_of_a_huge_grid_is_counted_not_made() -> None:
    tens = {"kind": "grid", "values": list(range(10))}
    nested = {"kind": "choice", "values": ["linear", {"kind": "mlp", "act": tens, "bias": tens}]}
    assert space(**{f"x{i}": tens for i in range(20)}).size() == 10**20
    assert space(head=nested, x=tens).size() == (1 + 100) * 10


def test_probes_try_every_end_and_every_value() -> None:
    head = {"kind": "mlp", "hidden": {"kind": "randint", "low": 8, "high": 33}}
    probed = space(
        loss={"kind": "choice", "values": ["auto", "bce", "focal"]},
        model__head={"kind": "choice", "values": ["linear", head]},
        training__warmup={"kind": "quniform", "low": 0, "high": 0.5, "q": 0.1},
    )
    hidden = "model.head[1].hidden"
    assert probed.probes() == [
        {"loss": 0, "model.head": 0, "training.warmup": 0.0},
        {"loss": 1, "model.head": 0, "training.warmup": 0.0},
        {"loss": 2, "model.head": 0, "training.warmup": 0.0},
        {"loss": 0, "model.head": 1, "training.warmup": 0.0, hidden: 8},
        {"loss": 0, "model.head": 0, "training.warmup": 0.1},
        {"loss": 0, "model.head": 0, "training.warmup": 0.5},
        {"loss": 0, "model.head": 1, "training.warmup": 0.0, hidden: 32},
    ]


def test_probes_reach_what_lies_two_choices_deep() -> None:
    found = [picks for picks in CONDITIONAL.probes() if SLOPE in picks]
    assert [picks[SLOPE] for picks in found] == [1, 3]
    assert all((picks["model.head"], picks[ACT], picks["loss"]) == (1, 1, 0) for picks in found)


PICKS = {"training.learning_rate": 3e-4, "loss": 1, GAMMA: 2.5, "model.head": 1, ACT: 1, SLOPE: 3}


def test_values_are_whole_nodes_with_what_lies_within_filled_in() -> None:
    gelu = {"kind": "gelu", "slope": 3}
    for _ in range(2):  # what was filled in once is not kept
        assert CONDITIONAL.values(PICKS) == {
            "training.learning_rate": 3e-4,
            "loss": {"kind": "focal", "gamma": 2.5},
            "model.head": {"kind": "mlp", "hidden": 8, "act": gelu},
        }
    assert CONDITIONAL.values(PICKS | {"loss": 0, "model.head": 0}) == {
        "training.learning_rate": 3e-4,
        "loss": "bce",
        "model.head": "linear",
    }
    assert CONDITIONAL.values(PICKS | {ACT: 0, GAMMA: 4.0})["loss"] == {"kind": "focal", "gamma": 4}


def test_params_name_nodes_by_their_kind_and_leave_out_what_does_not_exist() -> None:
    assert CONDITIONAL.params(PICKS) == {
        "training.learning_rate": 3e-4,
        "loss": "focal",
        "model.head": "mlp",
        GAMMA: 2.5,
        ACT: "gelu",
        SLOPE: 3,
    }
    assert CONDITIONAL.params(PICKS | {"loss": 0, ACT: 0}) == {
        "training.learning_rate": 3e-4,
        "loss": "bce",
        "model.head": "mlp",
        ACT: "relu",
    }


def test_params_number_nodes_that_have_no_kind_of_their_own() -> None:
    nodes = [{"kind": "mlp", "hidden": 8}, {"kind": "mlp", "hidden": 9}, {"patience": 3}, [1], None]
    listed = space(x={"kind": "choice", "values": nodes})
    found = [listed.params({"x": pick})["x"] for pick in range(5)]
    assert found == ["#0", "#1", "#2", "#3", None]


def test_clip_makes_picks_plain_and_leaves_other_keys_alone() -> None:
    warmup = space(
        training__warmup={"kind": "quniform", "low": 0, "high": 0.5, "q": 0.1},
        loss={"kind": "choice", "values": LOSSES},
        training__epochs={"kind": "randint", "low": 1, "high": 5},
        training__learning_rate=RATE,
    )
    found = warmup.clip(
        {
            "training.warmup": 0.30000000000000004,
            "loss": np.int64(1),
            GAMMA: np.float64(9.5),
            "training.epochs": np.int64(7),
            "training.learning_rate": 0.0010000000000000002,
            "trial": 11,
        }
    )
    assert found == {
        "training.warmup": 0.3,
        "loss": 1,
        GAMMA: 5.0,
        "training.epochs": 4,
        "training.learning_rate": 1e-3,
        "trial": 11,
    }
    assert [type(value) for value in found.values()] == [float, int, float, int, float, int]
