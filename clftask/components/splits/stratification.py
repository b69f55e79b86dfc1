"""Stratified sampling of rows, in sparse form.

Time and memory grow with the number of (row, label) pairs, not with rows × labels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def by_class(labels: Any, count: int, seed: int) -> Indices:
    """Return `count` rows: sorted by class, every k-th, so each class gets its share ± 1 row."""
    num_rows = labels.shape[0]
    classes = np.zeros(num_rows, np.int64)
    classes[np.repeat(np.arange(num_rows), np.diff(labels.indptr))] = labels.indices
    random = np.random.default_rng(seed)
    order = np.lexsort((random.random(num_rows), classes))
    marks = np.floor(np.arange(num_rows + 1) * (count / num_rows) + random.random())
    found: Indices = order[np.diff(marks) > 0]
    return found


def iterative(labels: Any, count: int, seed: int) -> Indices:
    """Return about `count` rows with the labels' shares, by iterative stratification.

    The rows of the rarest remaining label are distributed first, each to the part that lacks
    most rows of this label. The result is that of the package iterative-stratification 0.1.9,
    whose time and memory grow with rows × labels.

    Args:
        labels: (rows, labels) csr_array.
        count: The number of rows to choose, below the number of rows.
        seed: Of the order of the rows and of ties.
    """
    num_rows = labels.shape[0]
    random = np.random.RandomState(seed)
    order = np.arange(num_rows)
    random.shuffle(order)
    labels = labels[order]
    by_label = labels.tocsc()
    left = labels.sum(0).astype(np.int64)  # (labels,) rows not yet assigned
    # The size is rounded up as scikit-learn does.
    size = min(math.ceil(count / num_rows * num_rows), num_rows - 1)
    shares = np.array([num_rows - size, size]) / num_rows
    lacking, lacking_labels = (shares * num_rows).tolist(), np.outer(shares, left)
    is_open, is_chosen = np.ones(num_rows, bool), np.zeros(num_rows, bool)
    while left.any():
        rarest = np.flatnonzero(left == left[left > 0].min())
        label = rarest[random.choice(len(rarest))] if len(rarest) > 1 else rarest[0]
        rows = by_label.indices[by_label.indptr[label] : by_label.indptr[label + 1]]
        rows = np.sort(rows[is_open[rows]])
        chosen = _distribute(len(rows), lacking_labels[:, label].tolist(), lacking, random)
        for part, members in enumerate((rows[~chosen], rows[chosen])):
            taken = np.bincount(labels[members].indices, minlength=len(left))
            lacking_labels[part] -= taken
            left -= taken
        is_open[rows], is_chosen[rows] = False, chosen
    rows = np.flatnonzero(is_open)  # rows without labels
    is_chosen[rows] = _distribute(len(rows), [0.0, 0.0], lacking, random, step=0)
    return np.sort(order[is_chosen])


def _distribute(
    num_rows: int, of_label: list[float], of_rows: list[float], random: Any, step: int = 1
) -> npt.NDArray[np.bool_]:
    """Give rows one by one to the part that lacks most: of the label, then of all rows.

    Args:
        num_rows: The number of rows to distribute.
        of_label: How many rows of the label each of the two parts lacks.
        of_rows: How many rows each part lacks; updated.
        random: Breaks ties.
        step: What a row takes from `of_label`: 0 if the rows have no label.

    Returns:
        (rows,) whether a row is given to the second part.
    """
    found = np.zeros(num_rows, bool)
    for row in range(num_rows):
        if of_label[0] != of_label[1]:
            part = int(of_label[1] > of_label[0])
        elif of_rows[0] != of_rows[1]:
            part = int(of_rows[1] > of_rows[0])
        else:
            part = int(random.choice(2))
        found[row] = part
        of_label[part] -= step
        of_rows[part] -= 1
    return found
