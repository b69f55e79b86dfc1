from __future__ import annotations

import contextlib
import typing
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from clftask.components.splits import Rows, Split
from clftask.errors import DataError, Problem

NUM_ROWS = 1000
CLASS_SHARES = (0.5, 0.3, 0.15, 0.05)
LABEL_SHARES = (0.6, 0.4, 0.2, 0.1, 0.1, 0.05, 0.02, 0.02)

MEMBERS: dict[str, dict[str, Any]] = {
    "random": {"kind": "random"},
    "stratified": {"kind": "stratified"},
    "grouped": {"kind": "grouped", "group": "g"},
    "grouped and stratified": {"kind": "grouped", "group": "g", "stratify": True},
    "column": {"kind": "column", "column": "c"},
}
SEEDED = [name for name in MEMBERS if name != "column"]
GROUPED = [name for name in MEMBERS if name.startswith("grouped")]


def split(name: str, **fields: Any) -> Any:
    return TypeAdapter(Split).validate_python(MEMBERS[name] | fields)


def one_hot(classes: Any) -> Any:
    return np.eye(int(np.max(classes)) + 1, dtype=np.float32)[classes]


def rows_of(labels: Any, column: Any = None, is_multilabel: bool = False) -> Rows:
    labels = np.asarray(labels, np.float32)
    names = [f"label {i}" for i in range(labels.shape[1])]
    return Rows(labels, names, column, is_multilabel)


def groups_of(*sizes: int) -> Any:
    """Return a column in which the first group has the first size, and so on."""
    names = [f"group {i}" for i in range(len(sizes))]
    return np.repeat(np.array(names, object), sizes)


def a_table(name: str, is_multilabel: bool, num_rows: int = NUM_ROWS) -> Rows:
    """Return rows at random: 100 groups, each with a taste for some labels."""
    random = np.random.default_rng(5)
    group = random.integers(0, 100, num_rows)
    if is_multilabel:
        taste = random.uniform(0.5, 1.5, (100, len(LABEL_SHARES)))
        labels = random.random((num_rows, len(LABEL_SHARES))) < LABEL_SHARES * taste[group]
    else:
        labels = one_hot(random.choice(len(CLASS_SHARES), num_rows, p=CLASS_SHARES))
    column = np.array([f"group {i}" for i in group], object)
    if name == "column":
        column = np.array([["train"] * 8, ["validation"], ["test"]], object).sum()
        column = np.array(column, object)[random.permutation(num_rows) % 10]
    return rows_of(labels, column, is_multilabel)


def counts(found: Any) -> list[int]:
    return [int(n) for n in np.bincount(found, minlength=3)]


def refused(spec: Any, rows: Rows) -> Problem:
    with pytest.raises(DataError) as caught:
        spec.assign(rows)
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    return problem


# ------------------------------------------------------------------ every member


def test_every_member_is_tried_here() -> None:
    union = typing.get_args(typing.get_args(Split)[0])
    kinds = {member.model_fields["kind"].default for member in union}
    assert kinds == {fields["kind"] for fields in MEMBERS.values()}


@pytest.mark.parametrize("is_multilabel", [False, True])
@pytest.mark.parametrize("name", MEMBERS)
def test_every_row_gets_one_part_and_every_part_its_share(name: str, is_multilabel: bool) -> None:
    found = split(name).assign(a_table(name, is_multilabel))
    assert (found.shape, found.dtype) == ((NUM_ROWS,), np.int8)
    for part, expected in zip(counts(found), (800, 100, 100), strict=True):
        assert abs(part - expected) <= 10


@pytest.mark.parametrize("is_multilabel", [False, True])
@pytest.mark.parametrize("name", SEEDED)
def test_the_seed_decides(name: str, is_multilabel: bool) -> None:
    rows = a_table(name, is_multilabel)
    first = split(name, seed=1).assign(rows)
    assert (first == split(name, seed=1).assign(rows)).all()
    assert (first != split(name, seed=2).assign(rows)).any()


@pytest.mark.parametrize("is_multilabel", [False, True])
@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.3, 0.2), (500, 300, 200)), ((0.25, 0), (750, 250, 0)), ((0, 0.1), (900, 0, 100))],
)
def test_other_shares(name: str, is_multilabel: bool, shares: Any, expected: Any) -> None:
    spec = split(name, validation=shares[0], test=shares[1])
    found = counts(spec.assign(a_table(name, is_multilabel)))
    for part, wanted in zip(found, expected, strict=True):
        assert abs(part - wanted) <= (10 if wanted else 0)


@pytest.mark.parametrize("name", SEEDED)
def test_parts_with_a_table_of_their_own_get_nothing(name: str) -> None:
    rows = a_table(name, is_multilabel=False)
    own = split(name, validation=0.2, test=0.1).without(validation=True, test=False)
    assert (own.validation, own.test, own.kind) == (0, 0.1, MEMBERS[name]["kind"])
    assert counts(own.assign(rows))[1] == 0
    assert counts(own.without(validation=False, test=True).assign(rows)) == [NUM_ROWS, 0, 0]


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize("fields", [{"validation": 0.5, "test": 0.5}, {"test": -0.1}, {"seed": -1}])
def test_shares_that_leave_no_train_are_refused(name: str, fields: Any) -> None:
    with pytest.raises(ValidationError):
        split(name, **fields)


@pytest.mark.parametrize("is_multilabel", [False, True])
@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize("share", [0.05, 0.45])
@pytest.mark.parametrize("num_rows", [2, 5, 12, 30])
def test_a_small_table_is_split_or_refused(
    name: str, is_multilabel: bool, share: float, num_rows: int
) -> None:
    rows = a_table(name, is_multilabel, num_rows)
    used = rows.labels.any(0)
    rows = rows_of(rows.labels[:, used], rows.column, is_multilabel)
    with contextlib.suppress(DataError):
        assert len(split(name, validation=share, test=share).assign(rows)) == num_rows


# ------------------------------------------------------------------ random


def test_random_gives_the_same_rows_on_any_machine() -> None:
    found = split("random").assign(rows_of(np.zeros((10, 1))))
    assert found.tolist() == [0, 0, 0, 0, 0, 1, 2, 0, 0, 0]


# ------------------------------------------------------------------ stratified


def test_stratified_keeps_class_shares_exactly() -> None:
    classes = np.repeat([0, 1, 2], [40, 20, 20])
    found = split("stratified", validation=0.25, test=0.25).assign(rows_of(one_hot(classes)))
    assert [np.bincount(classes[found == part]).tolist() for part in range(3)] == [
        [20, 10, 10],
        [10, 5, 5],
        [10, 5, 5],
    ]


def worst_count(rows: Rows, found: Any) -> float:
    """Return by how many rows the worst label misses its share, validation and test."""
    wanted = rows.labels.sum(0) * 0.1
    return max(float(abs(rows.labels[found == part].sum(0) - wanted).max()) for part in (1, 2))


def test_stratified_keeps_label_shares() -> None:
    rows = a_table("stratified", is_multilabel=True)
    assert worst_count(rows, split("stratified").assign(rows)) <= 1.5
    assert worst_count(rows, split("random").assign(rows)) > 3


def test_stratified_splits_rows_without_labels_too() -> None:
    labels = np.zeros((100, 2))
    labels[:20, 0] = labels[10:30, 1] = 1
    found = split("stratified", validation=0.2, test=0.2).assign(rows_of(labels, None, True))
    for part, wanted in zip(counts(found[30:]), (42, 14, 14), strict=True):
        assert abs(part - wanted) <= 2


def test_stratified_names_the_classes_that_are_too_small() -> None:
    rows = rows_of(one_hot([0] * 20 + [1] * 2 + [2] * 20 + [3]))
    problem = refused(split("stratified"), rows)
    assert (problem.path, problem.value) == ("data.split", "label 1 (2), label 3 (1)")
    assert problem.allowed == "a stratified split needs 3 rows of every class"


@pytest.mark.parametrize(
    ("sizes", "validation", "test"), [((7, 8), 0.45, 0.45), ((5, 9, 9, 3), 0.05, 0.45)]
)
def test_stratified_splits_or_refuses_small_classes(
    sizes: tuple[int, ...], validation: float, test: float
) -> None:
    classes = np.repeat(range(len(sizes)), sizes)
    spec = split("stratified", validation=validation, test=test)
    with contextlib.suppress(DataError):
        assert sum(counts(spec.assign(rows_of(one_hot(classes))))) == sum(sizes)


# ------------------------------------------------------------------ grouped


@pytest.mark.parametrize("is_multilabel", [False, True])
@pytest.mark.parametrize("name", GROUPED)
def test_no_group_stands_in_two_parts(name: str, is_multilabel: bool) -> None:
    rows = a_table(name, is_multilabel)
    assert rows.column is not None
    for seed in range(10):
        found = split(name, seed=seed).assign(rows)
        assert all(len(set(found[rows.column == group])) == 1 for group in set(rows.column))
        assert set(found) == {0, 1, 2}


@pytest.mark.parametrize("name", GROUPED)
def test_one_group_a_part_is_enough(name: str) -> None:
    rows = rows_of(np.ones((12, 1)), groups_of(4, 4, 4))
    assert sorted(counts(split(name).assign(rows))) == [4, 4, 4]
    problem = refused(split(name), rows_of(np.ones((8, 1)), groups_of(4, 4)))
    assert (problem.path, problem.value) == ("data.split.group", 2)
    assert problem.allowed == "requires 3 groups or more, one for each part"


@pytest.mark.parametrize("name", GROUPED)
def test_a_large_group_goes_to_train(name: str) -> None:
    sizes = (400, 300, 200, *[5] * 100)
    found = split(name).assign(rows_of(np.ones((1400, 1)), groups_of(*sizes)))
    assert counts(found[:900]) == [900, 0, 0]
    for part, wanted in zip(counts(found), (1120, 140, 140), strict=True):
        assert abs(part - wanted) <= 10


def test_groups_may_be_stratified() -> None:
    labels = np.repeat(one_hot([0] * 60 + [1] * 30 + [2] * 10), 4, axis=0)
    rows = rows_of(labels, groups_of(*[4] * 100))
    found = split("grouped and stratified").assign(rows)
    assert [labels[found == part].sum(0).tolist() for part in range(3)] == [
        [192, 96, 32],
        [24, 12, 4],
        [24, 12, 4],
    ]
    assert worst_count(rows, split("grouped").assign(rows)) >= 4


def test_groups_of_numbers_and_nulls_are_groups() -> None:
    column = np.array([1, 2, None, 3, None, 1, 4, 5, 6, 7], object)
    found = split("grouped", validation=0.2, test=0.2).assign(rows_of(np.ones((10, 1)), column))
    assert found[0] == found[5]
    assert found[2] == found[4]


# ------------------------------------------------------------------ column


def test_a_column_says_it() -> None:
    values = ["train", "Valid", "TEST", "dev", "val", "training", "Validation"]
    found = split("column").assign(rows_of(np.ones((7, 1)), np.array(values, object)))
    assert found.tolist() == [0, 1, 2, 1, 1, 0, 1]
    assert split("column").reads == "c"
    assert split("column").without(validation=True, test=True) == split("column")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["train", "holdout", "x", "test"], "['holdout', 'x']"),
        (["train", None], "['None']"),
        (["test", "val"], "['test', 'val']"),
        ([0, 1], "['0', '1']"),
    ],
)
def test_strange_values_are_refused(values: list[Any], found: str) -> None:
    problem = refused(split("column"), rows_of(np.ones((len(values), 1)), np.array(values, object)))
    assert problem.path == "data.split.column c"
    assert f"(found {found})" in str(problem)
