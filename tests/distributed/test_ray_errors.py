"""Classification of errors that the pinned Ray raises."""

from __future__ import annotations

import pytest
import requests
from ray._private.utils import check_version_info
from ray.dashboard.modules.dashboard_sdk import SubmissionClient
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from clftask.distributed import ray_errors
from clftask.errors import DataError, Problem


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


def test_the_reason_of_a_failed_task_is_the_first_line_of_its_error():
    error = RayTaskError("f", "Traceback …\n  line 1\nValueError: spoilt\n", ValueError("spoilt"))
    assert ray_errors.reason_of(error) == "ValueError: spoilt"
    cause = RuntimeError("Expected to have finished reduction\n\nIn addition, you can set …")
    expected = "RuntimeError: Expected to have finished reduction"
    assert ray_errors.reason_of(RayTaskError("f", f"Traceback …\n{cause}", cause)) == expected
    assert ray_errors.reason_of(cause) == expected
    assert ray_errors.reason_of(RuntimeError("")) == "RuntimeError"


def test_the_reason_of_a_dead_actor_is_the_cause_that_ray_puts_last():
    error = RayError("The actor died.\n\tclass_name: A\nThe node ran out of memory.")
    assert ray_errors.reason_of(error) == "The node ran out of memory."


def test_the_reason_of_a_user_error_is_its_problem():
    error = DataError(Problem("bundle", "b", "is damaged", "Copy it again."))
    task = RayTaskError("f", "Traceback …\nDataError", error)
    assert ray_errors.reason_of(task) == "bundle: is damaged (found 'b'). Copy it again."
