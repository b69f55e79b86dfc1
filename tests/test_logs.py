"""What jobs log: JSON lines that a run and a shard find, and lines to read."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from clocks import Ticks

from clftask import logs

OUTPUT = "s3://bucket/scores/2026-11"


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave logging as it was, for the tests of other modules."""
    package = logging.getLogger("clftask")
    before = list(package.handlers), package.propagate, package.level
    monkeypatch.delenv("CLFTASK_DEBUG", raising=False)
    monkeypatch.setattr(logs, "_bound", {})
    yield
    package.handlers[:], package.propagate, level = before
    package.setLevel(level)


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Callable[[], str]:
    """Returns what went to stderr, with JSON asked for."""
    monkeypatch.setenv("CLFTASK_LOG", "json")
    return lambda: capsys.readouterr().err


def lines(stderr: Callable[[], str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr().splitlines()]


def test_a_json_line_names_run_and_shard(stderr):
    logs.work_on("score", OUTPUT)
    extra = {"shard": 7, "_ray_own": 1}  # Ray puts its own into records, named so
    logging.getLogger("clftask.scoring.worker").warning("it %s", "failed", extra=extra)
    (line,) = lines(stderr)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line.pop("pid") == os.getpid()
    assert line.pop("host")
    assert line == {
        "level": "warning",
        "message": "it failed",
        "logger": "clftask.scoring.worker",
        "kind": "score",
        "run": OUTPUT,
        "shard": 7,
    }


def test_a_run_is_called_by_its_name_and_a_process_has_one_job_at_a_time(stderr):
    logs.work_on("tune", "/data/runs/search", trial=1)
    logs.work_on("tune", "/data/runs/search", trial=2)
    logging.getLogger("clftask.tuning.trial_worker").info("epoch 1")
    (line,) = lines(stderr)
    assert (line["run"], line["trial"]) == ("search", 2)


def test_a_traceback_stays_in_its_line(stderr):
    logs.work_on("train", "runs/a")
    try:
        raise ValueError("no\nnumber")
    except ValueError:
        logging.getLogger("clftask").exception("failed")
    (line,) = lines(stderr)
    assert line["exception"].endswith("ValueError: no\nnumber")


def test_what_is_said_has_its_level(stderr):
    logs.start()
    for line in ("1,000 rows", "warning: two are empty", 'error: output.path: "x" is taken.'):
        logs.say(line)
    said = [(line["level"], line["message"]) for line in lines(stderr)]
    assert said == [
        ("info", "1,000 rows"),
        ("warning", "two are empty"),
        ("error", 'output.path: "x" is taken.'),
    ]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("s3://key:secret@bucket/x?a=1", "s3://***@bucket/x?a=1"),
        (
            "https://host/x?X-Amz-Signature=ab12&part=3&X-Amz-Security-Token=zz'",
            "https://host/x?X-Amz-Signature=***&part=3&X-Amz-Security-Token=***'",
        ),
        ("s3://bucket/mail@host.parquet", "s3://bucket/mail@host.parquet"),
    ],
)
def test_secrets_of_urls_are_left_out(text, safe, stderr):
    logs.work_on("score", text)
    logging.getLogger("clftask").error("cannot read %s", text, extra={"place": text})
    (line,) = lines(stderr)
    assert (line["message"], line["place"], line["run"]) == (f"cannot read {safe}", safe, safe)


@pytest.mark.parametrize(("debug", "shown"), [("", ["ends"]), ("1", ["begins", "ends"])])
def test_details_are_for_debugging(debug, shown, stderr, monkeypatch):
    monkeypatch.setenv("CLFTASK_DEBUG", debug)
    logs.work_on("score", OUTPUT)
    logging.getLogger("clftask.scoring.worker").debug("begins")
    logging.getLogger("clftask.scoring.worker").info("ends")
    assert [line["message"] for line in lines(stderr)] == shown


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "done"), (ValueError(), "failed"), (KeyboardInterrupt(), "interrupted")],
)
def test_the_driver_says_how_a_job_ended(error, state, stderr, monkeypatch):
    monkeypatch.setattr(time, "monotonic", Ticks())
    logs.start()
    logs.begin("train", "runs/a")
    logs.end(error)
    first, last = lines(stderr)
    assert (first["message"], last["message"]) == ("train begins", f"train ends: {state}")
    assert (last["run"], last["state"]) == ("a", state)
    assert last["seconds"] == 1.0


def test_without_json_workers_log_lines_and_drivers_nothing(stderr, monkeypatch):
    monkeypatch.setenv("CLFTASK_LOG", "text")
    logs.start()
    logs.begin("score", OUTPUT)
    logging.getLogger("clftask.scoring.worker").warning("unseen")
    logs.work_on("score", OUTPUT)
    logging.getLogger("clftask.scoring.worker").warning("bad rows", extra={"shard": 3})
    (line,) = stderr().splitlines()
    assert line.endswith(f" warning bad rows (kind=score run={OUTPUT} shard=3)")


def test_a_command_that_is_refused_complains_in_json(tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text("task: neither\n")
    command = [sys.executable, "-m", "clftask", "train", str(job)]
    environment = os.environ | {"CLFTASK_LOG": "json"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 2
    assert {line["level"] for line in found} == {"error"}
    assert any(line["message"].startswith("task: ") for line in found)
