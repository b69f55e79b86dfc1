"""Messages while workers wait for resources, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from clftask.distributed.capacity import WorkerPlan
from clftask.distributed.train.progress import waiting_line


def group(state: str, workers: int) -> dict[str, Any]:
    """A placement group as Ray's table has it."""
    return {"state": state, "bundles": {i: {"CPU": 1.0} for i in range(workers)}, "name": ""}


@pytest.mark.parametrize(
    ("plan", "line"),
    [
        (WorkerPlan(2, False, 1), "waiting for cluster resources: 2 workers with 1 CPU each"),
        (WorkerPlan(1, False, 0.5), "waiting for cluster resources: 1 worker with 0.5 CPUs each"),
        (
            WorkerPlan(4, True, 8),
            "waiting for cluster resources: 4 workers with 8 CPUs and a GPU each",
        ),
    ],
)
def test_workers_without_a_place_are_waited_for(plan, line):
    groups = [group("CREATED", 7), group("PENDING", plan.workers)]
    assert waiting_line(plan, groups) == line


def test_workers_that_come_and_go_have_a_group_once_they_have_a_place():
    plan = WorkerPlan(5, False, 1, least=2, more=3)
    line = "waiting for cluster resources: 2 workers with 1 CPU each"
    assert waiting_line(plan, [group("CREATED", 9)]) == line
    assert waiting_line(plan, [group("CREATED", 3)]) is None
    assert waiting_line(plan, [group("CREATED", 8)]) is None


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param([], id="not asked for yet"),
        pytest.param([group("CREATED", 2)], id="placed, and starting"),
        pytest.param([group("REMOVED", 2), group("CREATED", 2)], id="placed at the second try"),
        pytest.param([group("CREATED", 2), group("PENDING", 3)], id="another job waits"),
    ],
)
def test_workers_with_a_place_are_not(groups):
    assert waiting_line(WorkerPlan(2, False, 1), groups) is None
