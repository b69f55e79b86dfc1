"""Classification of errors that the pinned Ray raises."""

from __future__ import annotations

import pytest
import requests
from ray._private.utils import check_version_info
from ray.dashboard.modules.dashboard_sdk import SubmissionClient
from ray.exceptions import ActorDiedError, RayTaskError

from clftask.distributed import ray_errors


def test_a_cluster_of_another_python():
    with pytest.raises(RuntimeError) as caught:
        check_version_info({"ray_version": "2.60.0", "python_version": "3.9.1"}, "here", True)
    assert ray_errors.is_version_mismatch(caught.value)
    wrapped = ConnectionError("no answer")
    wrapped.__cause__ = caught.value
    assert ray_errors.is_version_mismatch(wrapped)
    assert not ray_errors.is_wrong_token(wrapped)


@pytest.mark.parametrize(("status", "is_unknown"), [(404, True), (500, False)])
def test_a_head_that_does_not_know_a_job(status, is_unknown):
    answer = requests.Response()
    answer.status_code = status
    with pytest.raises(RuntimeError) as caught:
        SubmissionClient._raise_error(object.__new__(SubmissionClient), answer)
    assert ray_errors.is_unknown_job(caught.value) is is_unknown


def test_an_actor_that_dies_by_itself_is_no_lost_machine():
    assert not ray_errors.is_node_loss(ActorDiedError())


def test_the_last_line_of_a_task_is_its_error():
    error = RayTaskError("f", "Traceback …\n  line 1\nValueError: spoilt\n", ValueError("spoilt"))
    assert ray_errors.last_line(error) == "ValueError: spoilt"
    assert ray_errors.last_line(RuntimeError("")) == "RuntimeError"
