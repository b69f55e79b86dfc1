"""The scoring job: how it is read, and what of it a table depends on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from clftask.components.score_table import TopK, Wide
from clftask.components.text import TextRecipe
from clftask.config.score import ScoreJob
from clftask.errors import ConfigError, Problem
from clftask.spec import fingerprint

JOB = {
    "bundle": "/runs/one/bundle",
    "input": {"path": "s3://bucket/corpus/", "id": "package", "keep": ["source"]},
    "output": {"path": "/scores/2026-11"},
}
TRAINED = TextRecipe(text=("summary", "description"), separator=" ")


def loaded(*overrides: str) -> ScoreJob:
    return ScoreJob.load(JOB, overrides)


def refused(*overrides: str, job: dict[str, Any] = JOB) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        ScoreJob.load(job, overrides)
    assert caught.value.exit_code == 2
    return list(caught.value.problems)


def of(job: ScoreJob) -> str:
    return fingerprint(job.settings("b" * 16, TRAINED))


# ------------------------------------------------------------------ reading


def test_defaults():
    job = loaded()
    assert (job.shard_rows, job.on_bad_row, job.max_bad_rows) == (20_000, "quarantine", 0.01)
    assert (job.precision, job.output.layout) == ("auto", Wide())
    assert (job.input.text, job.input.text_pair) == (None, None)
    assert (job.scaling.workers, job.scaling.use_gpu, job.scaling.cpus_per_worker) == (
        1,
        "auto",
        "auto",
    )
    assert ScoreJob.load({**JOB, "input": {"path": "/c"}}).input.keep == ()


def test_yaml_and_overrides(tmp_path):
    (tmp_path / "job.yaml").write_text(
        "bundle: /runs/one/bundle\n"
        "input: {path: /corpus, text: body, id: key, keep: [a, b]}\n"
        "output: {path: /scores, layout: {kind: top_k, k: 3}}\n"
        "scaling: {workers: [1, 8]}\n"
    )
    job = ScoreJob.load(tmp_path / "job.yaml", ["output.layout.k=7", "shard_rows=500"])
    assert job.output.layout == TopK(k=7)
    assert (job.input.text, job.input.keep) == (("body",), ("a", "b"))
    assert (job.shard_rows, job.scaling.workers) == (500, (1, 8))


def test_what_a_dry_run_prints_is_the_same_job(tmp_path):
    job = loaded("scaling.workers=[2, 4]", "output.layout=top_k", "input.text=[title, body]")
    file = tmp_path / "job.yaml"
    file.write_text(job.to_yaml())
    assert ScoreJob.load(file) == job
    assert yaml.safe_load(job.to_yaml())["output"] == {
        "path": "/scores/2026-11",
        "layout": {"kind": "top_k", "k": 5},
        "format": "parquet",
    }


def test_local_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = loaded("bundle=runs/b", "input.path=corpus/*.csv", "output.path=out")
    here = os.getcwd()  # noqa: PTH109 (as the shell has it)
    found = (job.bundle, job.input.path, job.output.path)
    assert found == (f"{here}/runs/b", f"{here}/corpus/*.csv", f"{here}/out")
    assert loaded("input.path=~/corpus").input.path == str(Path.home() / "corpus")


def test_urls_stay():
    job = loaded("bundle=s3://b/runs/bundle/", "output.path=s3://b/scores/")
    assert (job.bundle, job.output.path) == ("s3://b/runs/bundle", "s3://b/scores")
    assert job.input.path == "s3://bucket/corpus"


def test_one_kept_column_needs_no_list():
    assert loaded("input.keep=source").input.keep == ("source",)


# ------------------------------------------------------------------ refusing


def test_the_hub_is_refused_with_a_remedy():
    (problem,) = refused("input.path=hub:owner/name@config")
    assert (problem.path, problem.value) == ("input.path", "hub:owner/name@config")
    assert problem.allowed == "must be on disk or in an object store"
    assert problem.remedy == "Save the dataset with save_to_disk first"


def test_all_missing_fields_are_reported_at_once():
    problems = refused(job={"input": {"id": "x"}, "output": {}})
    assert {(p.path, p.allowed) for p in problems} == {
        ("bundle", "is required"),
        ("input.path", "is required"),
        ("output.path", "is required"),
    }


@pytest.mark.parametrize(
    ("override", "path", "remedy"),
    [
        ("shard_row=5", "shard_row", "Did you mean shard_rows?"),
        ("input.ids=x", "input.ids", "Did you mean id?"),
        ("output.schema=x", "output.schema", "Known fields: format, layout, path."),
        ("scaling.max_failures=3", "scaling.max_failures", "Known fields: "),
        ("output.layout.k=3", "output.layout.k", "Known fields: kind."),
        ("seed=1", "seed", "Known fields: "),
    ],
)
def test_unknown_keys_are_refused(override, path, remedy):
    (problem,) = refused(override)
    assert (problem.path, problem.allowed) == (path, "is not a field of the job file")
    assert problem.remedy.startswith(remedy)


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("shard_rows=0", "shard_rows"),
        ("max_bad_rows=1.5", "max_bad_rows"),
        ("max_bad_rows=-0.1", "max_bad_rows"),
        ("on_bad_row=skip", "on_bad_row"),
        ("precision=fp64", "precision"),
        ("output.layout=long", "output.layout.kind"),
        ("output.path=''", "output.path"),
        ("bundle=''", "bundle"),
        ("input.text=[]", "input.text"),
        ("scaling.cpus_per_worker=0", "scaling.cpus_per_worker"),
        ("scaling.use_gpu=perhaps", "scaling.use_gpu"),
        ("scaling.gpus_per_worker=0", "scaling.gpus_per_worker"),
        ("scaling.gpus_per_worker=2", "scaling.gpus_per_worker"),
        ("scaling={use_gpu: false, gpus_per_worker: 0.5}", "scaling.gpus_per_worker"),
    ],
)
def test_values_out_of_range_are_refused(override, path):
    assert [problem.path for problem in refused(override)] == [path]


# ------------------------------------------------------------------ a cascade

CASCADE = {**JOB, "bundle": {"cascade": ["/runs/small", "s3://b/large/"], "agreement": 0.95}}


def test_a_cascade_is_two_bundles(tmp_path):
    job = ScoreJob.load(CASCADE)
    assert job.bundles == {"bundle.cascade.0": "/runs/small", "bundle.cascade.1": "s3://b/large"}
    assert job.agreement == 0.95
    assert job.paths.keys() == {*job.bundles, "input.path", "output.path"}
    (tmp_path / "job.yaml").write_text(job.to_yaml())
    assert ScoreJob.load(tmp_path / "job.yaml") == job
    assert ScoreJob.load(CASCADE, ["bundle.agreement=0.9"]).agreement == 0.9
    assert ScoreJob.load({**JOB, "bundle": {"cascade": ["a", "b"]}}).agreement == 0.99
    assert (loaded().bundles, loaded().agreement) == ({"bundle": "/runs/one/bundle"}, None)


@pytest.mark.parametrize(
    ("bundle", "path", "allowed"),
    [
        (
            {"cascade": ["a"]},
            "bundle.cascade",
            "must be two bundles: the small one, then the large one",
        ),
        (
            {"cascade": ["a", "b", "c"]},
            "bundle.cascade",
            "must be two bundles: the small one, then the large one",
        ),
        ({"cascade": ["a", ""]}, "bundle.cascade.1", "must have at least 1 item"),
        ({"cascade": ["a", "b"], "agreement": 1}, "bundle.agreement", "must be less than 1"),
        ({"cascade": ["a", "b"], "agreement": 0.5}, "bundle.agreement", "must be greater than 0.5"),
        ({"cascade": ["a", "b"], "agrees": 0.9}, "bundle.agrees", "is not a field of the job file"),
        ({"agreement": 0.9}, "bundle.cascade", "is required"),
        (["a", "b"], "bundle", "must be text"),
    ],
)
def test_cascades_with_mistakes_are_refused(bundle, path, allowed):
    (problem,) = refused(job={**JOB, "bundle": bundle})
    assert (problem.path, problem.allowed) == (path, allowed)
    if path == "bundle.agrees":
        assert problem.remedy == "Did you mean agreement?"
    if isinstance(bundle, list):
        remedy = "For a small and a large bundle write {cascade: [small, large], agreement: 0.99}"
        assert problem.remedy.rstrip(".") == remedy


def test_a_cascades_table_depends_on_its_promise():
    settings = ScoreJob.load(CASCADE).settings("aa+bb", TRAINED)
    assert (settings["bundle"], settings["bundle.agreement"]) == ("aa+bb", 0.95)
    assert of(ScoreJob.load(CASCADE, ["bundle.agreement=0.9"])) != of(ScoreJob.load(CASCADE))


# ------------------------------------------------------------------ workers


@pytest.mark.parametrize(
    ("written", "bounds"), [("3", (3, 3)), ("[1, 8]", (1, 8)), ("[4, 4]", (4, 4))]
)
def test_workers_are_a_number_or_a_range(written, bounds):
    assert loaded(f"scaling.workers={written}").scaling.bounds == bounds


def test_workers_may_be_chosen_by_rows_and_cpus():
    assert loaded("scaling.workers=auto").scaling.workers == "auto"
    assert loaded("scaling.workers=auto").dump()["scaling"]["workers"] == "auto"


@pytest.mark.parametrize("written", ["0", "-1", "[0, 4]", "[8, 1]"])
def test_ranges_without_workers_are_refused(written):
    (problem,) = refused(f"scaling.workers={written}")
    assert problem.path == "scaling.workers"
    assert problem.allowed == "must be a number above 0, or [min, max]"


@pytest.mark.parametrize("written", ["[2]", "[1, 2, 3]", "many", "1.5"])
def test_what_is_no_range_is_refused(written):
    (problem,) = refused(f"scaling.workers={written}")
    assert problem.path == "scaling.workers"


# ------------------------------------------------------------------ what a rerun must share


def test_settings():
    assert loaded("output.layout=top_k").settings("0123456789abcdef", TRAINED) == {
        "bundle": "0123456789abcdef",
        "input.text": {
            "text": ["summary", "description"],
            "text_pair": None,
            "separator": " ",
        },
        "input.id": "package",
        "input.keep": ["source"],
        "output.layout": {"kind": "top_k", "k": 5},
        "shard_rows": 20_000,
        "on_bad_row": "quarantine",
        "precision": "auto",
    }


@pytest.mark.parametrize(
    "override",
    [
        "input.text=body",
        "input.text=[description, summary]",
        "input.text_pair=second",
        "input.id=key",
        "input.id=null",
        "input.keep=[source, year]",
        "input.keep=[]",
        "output.layout=list",
        "output.layout={kind: top_k, k: 3}",
        "shard_rows=19999",
        "on_bad_row=fail",
        "precision=fp32",
    ],
)
def test_the_table_depends_on(override):
    assert of(loaded(override)) != of(loaded())


@pytest.mark.parametrize(
    "override",
    [
        "scaling.workers=[1, 8]",
        "scaling.use_gpu=false",
        "scaling.cpus_per_worker=2",
        "max_bad_rows=1",
        "bundle=/copied/bundle",
        "output.path=/elsewhere",
        "output.layout={kind: wide}",
        "input.path=/corpus",
        "input.text=[summary, description]",
    ],
)
def test_the_table_does_not_depend_on(override):
    """Files are compared one by one, and the bundle by its fingerprint, not by where they lie."""
    assert loaded(override) != loaded() or override == "output.layout={kind: wide}"
    assert of(loaded(override)) == of(loaded())


def test_the_table_depends_on_the_bundle_and_its_text():
    job = loaded()
    other = TRAINED.model_copy(update={"separator": "\n"})
    assert fingerprint(job.settings("c" * 16, TRAINED)) != of(job)
    assert fingerprint(job.settings("b" * 16, other)) != of(job)


def test_text_is_made_as_in_training_but_for_what_the_job_names():
    pair = TextRecipe(text=("a",), text_pair="b", separator="|")
    assert loaded().input.recipe(pair) == pair
    assert loaded("input.text=x").input.recipe(pair) == TextRecipe(
        text=("x",), text_pair="b", separator="|"
    )
    assert loaded("input.text_pair=y").input.recipe(pair) == TextRecipe(
        text=("a",), text_pair="y", separator="|"
    )
