from __future__ import annotations

import contextlib
import typing
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy.sparse import csr_array

from clftask.components.splits import Rows, Split, group_codes
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
    labels = csr_array(np.asarray(labels, np.int8))
    names = [f"label {i}" for i in range(labels.shape[1])]
    column = None if column is None else pa.array(column, pa.large_string())
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
    labels = rows.labels.toarray()
    rows = rows_of(labels[:, labels.any(0)], rows.column, is_multilabel)
    with contextlib.suppress(DataError):
        assert len(split(name, validation=share, test=share).assign(rows)) == num_rows


@pytest.mark.parametrize("name", ["random", "stratified"])
@pytest.mark.parametrize(
    ("num_rows", "shares", "path", "value", "remedy"),
    [
        (
            4,
            (0.5, 0.1),
            "data.split.test",
            0.1,
            "Provide more rows, or set a share of 0.25 or more.",
        ),
        (2, (0.1, 0.1), "data.split.validation", 0.1, "set a share of 0.5 or more."),
        (2, (0.45, 0.45), "data.split", "validation 0.45, test 0.45", "or smaller shares."),
        (0, (0.1, 0), "data.split.validation", 0.1, "Provide more rows"),
    ],
)
def test_a_part_without_rows_is_refused(
    name: str, num_rows: int, shares: Any, path: str, value: Any, remedy: str
) -> None:
    rows = rows_of(np.ones((num_rows, 1)), None, True)
    problem = refused(split(name, validation=shares[0], test=shares[1]), rows)
    assert (problem.path, problem.value) == (path, value)
    assert remedy in problem.remedy


@pytest.mark.parametrize("share", [1, 10, -0.1, "10%", True, None, float("nan")])
def test_what_is_no_share_is_refused(share: Any) -> None:
    with pytest.raises(ValidationError, match="must be a share of the rows, from 0 to below 1"):
        split("random", validation=share)


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


def patterned_labels() -> Any:
    """Return (40, 6) labels of 36, 7, 5, 12, 3 and 2 rows."""
    labels = [[(i * (j + 3) + j) % (2 * j + 3) == 0 for j in range(6)] for i in range(40)]
    return np.array(labels) & (np.arange(40) >= 4)[:, None]


def digits(found: Any) -> str:
    return "".join(map(str, found))


def test_stratified_gives_the_rows_of_the_package_iterative_stratification() -> None:
    rows = rows_of(patterned_labels(), None, True)
    found = split("stratified", validation=0.2, test=0.2).assign(rows)
    assert digits(found) == "0102010211020100100020221000002020000010"
    found = split("stratified", validation=0.5, test=0).assign(rows)
    assert digits(found) == "1010010110000110011111010110001100101001"


def test_stratified_needs_no_matrix_of_rows_and_labels() -> None:
    """100,000 rows × 100,000 labels: 40 GB as floats."""
    num_rows = 100_000
    codes = np.arange(num_rows) // 10 * 10
    labels = csr_array((np.ones(num_rows, np.int8), codes, np.arange(num_rows + 1)))
    found = split("stratified").assign(Rows(labels, range(num_rows), None, False))
    assert counts(found) == [80_000, 10_000, 10_000]
    assert np.bincount(codes[found == 1]).max() == 1
    groups = pa.array((codes // 10).astype(str), pa.large_string())
    few = Rows(labels[:1000], range(num_rows), groups[:1000], True)
    assert sum(counts(split("grouped and stratified").assign(few))) == 1000


def test_one_label_is_stratified() -> None:
    labels = np.zeros((50, 1))
    labels[:10] = 1
    found = split("stratified", validation=0.2, test=0.2).assign(rows_of(labels, None, True))
    assert counts(found[:10]) == [6, 2, 2]


def test_stratified_names_the_classes_that_are_too_small() -> None:
    rows = rows_of(one_hot([0] * 20 + [1] * 2 + [2] * 20 + [3]))
    problem = refused(split("stratified"), rows)
    assert (problem.path, problem.value) == ("data.split", "label 1 (2), label 3 (1)")
    assert problem.allowed == "a stratified split needs 3 rows of every class"
    assert "data.labels.min_count=3" in problem.remedy


def test_many_small_classes_are_counted() -> None:
    problem = refused(split("stratified"), rows_of(one_hot(list(range(12)))))
    assert problem.value.endswith("label 9 (1) and 2 more")
    assert problem.remedy == "Set data.split=random to keep these classes."  # none would be left


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
        column = np.array(rows.column)
        assert all(len(set(found[column == group])) == 1 for group in set(column))
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


def test_stratified_groups_stay_as_they_are() -> None:
    groups = [f"g{i * i % 13}" for i in range(40)]
    spec = split("grouped and stratified", validation=0.2, test=0.2)
    found = spec.assign(rows_of(patterned_labels(), groups, True))
    assert digits(found) == "1020100001020102010000102010201000010201"


def test_a_row_without_a_group_is_refused() -> None:
    rows = rows_of(np.ones((6, 1)), ["a", "b", None, "c", None, "a"])
    problem = refused(split("grouped"), rows)
    assert (problem.path, problem.value) == ("data.split.group g: row 2", None)
    assert problem.allowed == "the group is missing"
    assert "(2 rows of 6)" in problem.remedy


def test_codes_number_the_groups_by_name_and_missing_groups_on_their_own() -> None:
    column = pa.array(["b", None, "a", "b", None, "10", "9"], pa.large_string())
    assert group_codes(column).tolist() == [3, 4, 2, 3, 5, 0, 1]


# ------------------------------------------------------------------ column


def test_a_column_says_it() -> None:
    values = ["train", "Valid", "TEST", "dev", "val", "training", "Validation", " test ", "testing"]
    found = split("column").assign(rows_of(np.ones((9, 1)), np.array(values, object)))
    assert found.tolist() == [0, 1, 2, 1, 1, 0, 1, 2, 2]
    assert split("column").reads == "c"
    assert split("column").without(validation=True, test=True) == split("column")


@pytest.mark.parametrize(
    ("values", "row", "value", "remedy"),
    [
        (["train", "x", "holdout", "test"], 1, "x", "Fix 2 rows of 4 (unknown: x, holdout)"),
        (["train", None], 1, None, "Fix 1 row of 2,"),
        (["0", "1"], 0, "0", "Fix 2 rows of 2 (unknown: 0, 1)"),
    ],
)
def test_strange_values_are_refused(values: list[Any], row: int, value: Any, remedy: str) -> None:
    problem = refused(split("column"), rows_of(np.ones((len(values), 1)), values))
    assert (problem.path, problem.value) == (f"data.split.column c: row {row}", value)
    assert problem.allowed.endswith("must be train, validation (or valid, val, dev) or test")
    assert problem.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("values", "missing"),
    [(["test", "val"], "train"), (["train", "test"], "validation")],
)
def test_a_column_without_train_or_validation_is_refused(values: list[str], missing: str) -> None:
    problem = refused(split("column"), rows_of(np.ones((2, 1)), values))
    assert problem.path == "data.split.column c"
    assert problem.value == values
    assert problem.allowed == f"must contain train and validation, but lacks {missing}"
