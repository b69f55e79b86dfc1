"""Trackers: what each needs, and where they write."""

from __future__ import annotations

import importlib.util
import json
import os
import tomllib
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from clftask.components import trackers
from clftask.components.trackers import Tracker
from clftask.errors import ConfigError

each_tracker = pytest.mark.parametrize("tracker", Tracker)


@each_tracker
def test_is_a_bare_name_in_files_and_has_an_extra(tracker):
    adapter = TypeAdapter(Tracker)
    assert adapter.validate_python(str(tracker)) is tracker
    assert json.loads(adapter.dump_json(tracker)) == tracker
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert str(tracker) in project["optional-dependencies"]


@each_tracker
def test_the_trainer_reports_to_it(tracker):
    from transformers.integrations import get_reporting_integration_callbacks

    assert len(get_reporting_integration_callbacks([str(tracker)])) == 1


@each_tracker
def test_is_refused_where_its_package_is_missing(monkeypatch, tracker):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        trackers.check([tracker], "/runs")
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("tracking", str(tracker))
    assert f"clftask[{tracker}]" in problem.remedy


@each_tracker
def test_needs_its_server_for_a_run_in_an_object_store(monkeypatch, tracker):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    trackers.check([tracker], "/runs")
    if tracker.server is None:
        return trackers.check([tracker], "s3://bucket/runs")
    monkeypatch.delenv(tracker.server, raising=False)
    with pytest.raises(ConfigError, match=f"Set {tracker.server}"):
        trackers.check([tracker], "s3://bucket/runs")
    monkeypatch.setenv(tracker.server, "http://server")
    return trackers.check([tracker], "s3://bucket/runs")


def test_files_go_to_the_run(monkeypatch, tmp_path):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE", "TENSORBOARD_LOGGING_DIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with trackers.writing_to(str(tmp_path / "run"), str(tmp_path)):
        assert os.environ["MLFLOW_TRACKING_URI"] == f"file://{tmp_path}/run/mlruns"
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "run" / "tensorboard")
