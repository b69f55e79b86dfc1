"""The sections of job files."""

from __future__ import annotations

from pathlib import Path

import pytest

from clftask.config.sections import ModelSpec


def test_a_base_is_a_hub_id_or_an_absolute_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers have another working directory: every path that is no hub id becomes absolute."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "bert").mkdir(parents=True)
    expected = {
        "bert-base-uncased": "bert-base-uncased",
        "owner/name": "owner/name",
        "mine/bert": f"{tmp_path}/mine/bert",
        "runs/teacher/bundle": f"{tmp_path}/runs/teacher/bundle",
        "./name": f"{tmp_path}/name",
        "/models/name": "/models/name",
        "pkg://package/model": "pkg://package/model",
        "s3://bucket/models/name": "s3://bucket/models/name",
    }
    assert {base: ModelSpec(base=base).base for base in expected} == expected
