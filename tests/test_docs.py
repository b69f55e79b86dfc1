"""README and docs: their job files load, their links lead somewhere, no field is left out."""

import re
from pathlib import Path

import pytest

from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
JOBS = {"task": TrainJob, "train": TuneJob, "bundle": ScoreJob}  # by the first field
BLOCK = re.compile(r"```yaml\n(?:# (?P<name>\S+)\n)?(?P<text>(?P<first>\w+):.*?)```", re.DOTALL)


def blocks(page):
    return [match for match in BLOCK.finditer(page.read_text()) if match["first"] in JOBS]


@pytest.mark.parametrize(("name", "count"), [("README.md", 3), ("docs/job-files.md", 3)])
def test_job_files_load(name, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / name)
    assert len(found) == count
    for match in found:
        path = tmp_path / (match["name"] or "job.yaml")
        path.write_text(match["text"])
        JOBS[match["first"]].load(path)


def fields_and_kinds(schema):
    """Yield the names of all fields of a JSON Schema, and the kinds of its families."""
    if isinstance(schema, list):
        schema = dict(enumerate(schema))
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        if isinstance(schema.get("const"), str):
            yield schema["const"]
        for value in schema.values():
            yield from fields_and_kinds(value)


@pytest.mark.parametrize("job", JOBS.values())
def test_every_field_and_kind_is_documented(job):
    words = set(re.findall(r"[\w]+", (ROOT / "docs" / "job-files.md").read_text()))
    names = set(fields_and_kinds(job.model_json_schema()))
    assert {"kind", "train" if job is TuneJob else "scaling"} <= names
    assert names - words == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_the_tour_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*/[a-z_]+\.py)`", text))
    assert len(named) > 30
    places = (ROOT, ROOT / "clftask")
    assert [n for n in sorted(named) if not any((place / n).is_file() for place in places)] == []
