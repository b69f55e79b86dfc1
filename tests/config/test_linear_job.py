"""Jobs with `model.base: tfidf`: what they have, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.errors import ConfigError


def document(**more: Any) -> dict[str, Any]:
    labels = {"kind": "list", "column": "tags"}
    data = {"train": "rows.csv", "text": "text", "labels": labels}
    return {"task": "multilabel", "data": data, "model": {"base": "tfidf"}, **more}


def refused(job: type[TrainJob | TuneJob], source: dict[str, Any]) -> dict[str, str]:
    """Return the messages of a refused job, by field."""
    with pytest.raises(ConfigError) as caught:
        job.load(source)
    return {p.path: f"{p.value}: {p.allowed}; {p.remedy}" for p in caught.value.problems}


def test_a_resolved_job_has_only_what_counts_and_loads_again():
    job = TrainJob.load(document(), ["model.C=3", "training.metric=macro_f1"])
    found = job.dump()
    assert found["model"] == {
        "base": "tfidf",
        "words": [1, 2],
        "chars": None,
        "min_df": 2,
        "max_features": 50_000,
        "C": 3.0,
    }
    assert found["training"] == {"metric": "macro_f1"}
    assert TrainJob.load(found) == job
    assert "model.base" not in job.paths
    assert job.epochs == 1


def test_settings_of_pretrained_models_are_refused_by_name():
    model = {"base": "tfidf", "max_length": 64, "head": "mlp", "adapt": "full", "long_text": "head"}
    found = refused(TrainJob, document(model=model))
    assert found.keys() == {
        "model.max_length", "model.head", "model.adapt", "model.long_text"
    }  # fmt: skip
    assert "reads whole texts. Remove it." in found["model.max_length"]


def test_settings_without_effect_are_refused_all_at_once():
    more = {
        "loss": {"kind": "focal", "label_smoothing": 0.1},
        "training": {"epochs": 3, "weight_decay": 0.1, "metric": "map"},
        "scaling": {"workers": 2, "use_gpu": True, "max_failures": 0, "shard": "fsdp"},
        "tracking": ["tensorboard"],
        "baseline": True,
    }
    found = refused(TrainJob, document(**more))
    assert found.keys() == {
        "loss.kind", "loss.label_smoothing", "training.epochs", "training.weight_decay",
        "scaling.workers", "scaling.use_gpu", "scaling.max_failures", "scaling.shard",
        "tracking", "baseline",
    }  # fmt: skip
    assert found["training.weight_decay"] == (
        "0.1: is not for model.base: tfidf; Use model.C, the inverse strength of regularisation."
    )


@pytest.mark.parametrize(
    ("model", "path", "message"),
    [
        ({"words": None}, "model", "words and chars must not both be null"),
        ({"words": [2, 1]}, "model.words", "must be [shortest, longest], from 1 to 10"),
        ({"C": 0}, "model.C", "must be greater than 0"),
        ({"ngram_range": [1, 2]}, "model.ngram_range", "Use model.words or model.chars."),
    ],
)
def test_bad_values(model, path, message):
    found = refused(TrainJob, document(model={"base": "tfidf", **model}))
    assert message in found[path]


def test_the_fields_of_a_linear_model_are_unknown_to_others():
    found = refused(TrainJob, document(model={"base": "some/model", "min_df": 2}))
    assert "is not a field of the job file" in found["model.min_df"]
    assert refused(TrainJob, document(model={}))["model.base"].startswith("None: is required")


def search(space: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"train": document(), "space": space, **more}


def test_a_search_has_one_evaluation_per_trial():
    space = {"model.C": {"kind": "loguniform", "low": 0.1, "high": 10}}
    job = TuneJob.load(search(space))
    assert (job.scheduler.kind, job.finalists) == ("fifo", None)
    assert TuneJob.load(job.dump()) == job
    found = refused(TuneJob, search(space, scheduler="asha", finalists={"top": 2}))
    assert found.keys() == {"scheduler.kind", "finalists"}


def test_a_search_refuses_what_a_linear_model_lacks():
    rates = {"kind": "choice", "values": [1e-5, 1e-4]}
    found = refused(TuneJob, search({"training.learning_rate": rates}))
    assert "is not for model.base: tfidf" in found["space.training.learning_rate"]
    bases = {"kind": "choice", "values": ["tfidf", "some/model"]}
    found = refused(TuneJob, search({"model.base": bases}))
    assert "cannot be searched together with pretrained models" in found["space.model.base"]
