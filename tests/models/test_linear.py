"""Linear models: those of scikit-learn, stored without pickle."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import expit, softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_union

from clftask.config.tfidf import TfidfSpec
from clftask.config.train import TrainJob
from clftask.errors import DataError
from clftask.models.linear import LinearModel, Vectorizer, whole_texts
from clftask.models.linear_fit import fit_linear, mean_loss, positive_weights

TEXTS = [f"{word} Sound {i % 5} c" for i, word in enumerate(["router", "pixel", "Größe"] * 20)]
NEW = ["a ROUTER of pixels", "größe", "nothing known", ""]


def job(task: str, **loss: object) -> TrainJob:
    kind = {"multilabel": "list", "multiclass": "class"}[task]
    data = {"train": "x.csv", "text": "text", "labels": {"kind": kind, "column": "y"}}
    model = {"base": "tfidf", "words": [1, 2], "chars": [2, 3], "C": 2}
    return TrainJob.load({"task": task, "data": data, "model": model, "loss": loss or "auto"})


def fitted(of: TrainJob, targets: np.ndarray, folder) -> tuple[LinearModel, np.ndarray]:
    """Return a model that was saved and opened, and its logits of new texts before that."""
    assert isinstance(of.model, TfidfSpec)
    vectorizer, vectors = Vectorizer.fit(of.model, TEXTS)
    model, warnings = fit_linear(of, of.model.C, vectorizer, vectors, targets)
    assert warnings == []
    model.save_pretrained(folder)
    return LinearModel.open(folder, targets.shape[1]), model.logits(model.vectorizer.transform(NEW))


def plain_vectors() -> tuple[np.ndarray, np.ndarray]:
    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w+\b", min_df=2
    )
    chars = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3), sublinear_tf=True, min_df=2)
    union = make_union(words, chars)
    return union.fit_transform(TEXTS), union.transform(NEW)


def hot(classes: list[int], labels: int) -> np.ndarray:
    return np.eye(labels, dtype=np.float32)[classes]


def test_one_vs_rest_has_the_probabilities_of_scikit_learn(tmp_path):
    targets = np.stack([[i % 3 == k or (i % 4 == k) for k in range(4)] for i in range(60)])
    targets = np.concatenate([targets, np.zeros((60, 1))], axis=1).astype(np.float32)
    of = job("multilabel", kind="bce", class_weights="balanced")
    model, before = fitted(of, targets, tmp_path)
    logits = model.logits(model.vectorizer.transform(NEW))
    assert logits.tolist() == before.tolist()
    x, new = plain_vectors()
    weights = positive_weights(of.loss, targets)
    for k in range(4):
        plain = LogisticRegression(
            C=2, solver="liblinear", tol=1e-2, class_weight={0: 1, 1: weights[k]}
        )
        expected = plain.fit(x, targets[:, k]).predict_proba(new)[:, 1]
        np.testing.assert_allclose(expit(logits[:, k]), expected, atol=1e-6)
    # A label without rows has half a row's odds, whatever the text.
    assert expit(logits[:, 4]) == pytest.approx([0.5 / 60] * 4, rel=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_multinomial_has_the_probabilities_of_scikit_learn(num_classes, tmp_path):
    classes = [i % num_classes for i in range(60)]
    model, before = fitted(job("multiclass"), hot(classes, num_classes + 1), tmp_path)
    logits = model.logits(model.vectorizer.transform(NEW))
    assert logits.tolist() == before.tolist()
    x, new = plain_vectors()
    plain = LogisticRegression(C=2, max_iter=1000).fit(x, classes)
    found = softmax(logits, axis=1)
    # The last class has no rows: it is never likely.
    np.testing.assert_allclose(found[:, :-1], plain.predict_proba(new), atol=2e-4)
    assert found[:, -1].max() < 1e-4


def test_the_loss_is_the_weighted_cross_entropy():
    logits, weights = np.array([[0.0, 2.0]], np.float32), np.array([3.0, 1.0])
    targets = np.array([[1.0, 0.0]], np.float32)
    # (3 log 2 + log(1 + e²)) / 2, and 3 log(1 + e²)
    assert mean_loss(job("multilabel"), logits, targets, weights) == pytest.approx(2.103185)
    assert mean_loss(job("multiclass"), logits, targets, weights) == pytest.approx(6.380784)


def test_a_vocabulary_is_never_empty():
    spec = TfidfSpec(base="tfidf", min_df=61)
    with pytest.raises(DataError, match="no n-gram of words occurs in so many train rows"):
        Vectorizer.fit(spec, TEXTS)


def test_second_texts_are_appended():
    texts, pairs = pa.array(["a", "b"]), pa.array(["c", "d"])
    assert whole_texts(texts, pairs) == ["a\nc", "b\nd"]


@pytest.mark.parametrize("damage", ["terms", "weights", "json", "missing"])
def test_damaged_files_are_refused(damage, tmp_path):
    fitted(job("multiclass"), hot([i % 2 for i in range(60)], 2), tmp_path)
    vocabulary, weights = tmp_path / "vocabulary.json", tmp_path / "model.safetensors"
    if damage == "terms":
        content = json.loads(vocabulary.read_text())
        content["words"]["terms"].pop()
        vocabulary.write_text(json.dumps(content))
    elif damage == "weights":
        numbers = load_file(weights)
        save_file({**numbers, "weight": numbers["weight"][:, 1:].copy()}, weights)
    elif damage == "json":
        vocabulary.write_text("[1")
    else:
        weights.unlink()
    with pytest.raises(DataError):
        LinearModel.open(tmp_path, 2)


def test_scoring_needs_no_torch():
    code = "import sys, clftask.models.linear_scorer; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ------------------------------------------------------------------ soft labels and row weights

# Each of two texts has an n-gram of its own, so almost unpenalised models give the targets back.
PAIR = ["router", "pixel"]


def learned(task: str, texts: list[str], targets: list[list[float]], weights=None) -> np.ndarray:
    """Return the probabilities of `PAIR`, of a model with hardly any regularisation."""
    spec = TfidfSpec(base="tfidf", words=[1, 1], min_df=1)
    vectorizer, vectors = Vectorizer.fit(spec, texts)
    given = vectorizer, vectors, np.array(targets, np.float32)
    model, _ = fit_linear(job(task), 1e5, *given, None if weights is None else np.array(weights))
    logits = model.logits(vectorizer.transform(PAIR))
    return expit(logits) if task == "multilabel" else softmax(logits, axis=1)


@pytest.mark.parametrize(
    ("task", "targets"),
    [
        ("multiclass", [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]),
        ("multiclass", [[0.7, 0.3, 0.0], [0.4, 0.6, 0.0]]),
        ("multilabel", [[0.9, 0.5, 0.1], [0.2, 0.5, 1.0]]),
    ],
)
def test_soft_labels_are_learned(task, targets):
    np.testing.assert_allclose(learned(task, PAIR, targets), targets, atol=0.02)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_row_counts_by_its_weight(task):
    """Each text has three rows: two of one label, one of the other; one of no weight."""
    rows = [*PAIR * 2, *PAIR]
    targets = [[1, 0], [0, 1], [0, 1], [1, 0], [0, 1], [1, 0]]
    found = learned(task, rows, targets, [3, 1, 1, 4, 0, 0])
    np.testing.assert_allclose(found, [[0.75, 0.25], [0.8, 0.2]], atol=0.02)


def test_a_class_that_alone_has_rows_of_weight_is_decided_always():
    found = learned("multiclass", PAIR, [[1, 0], [0, 1]], [1, 0])
    np.testing.assert_allclose(found, [[1, 0], [1, 0]], atol=0.05)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_soft_classes_are_those_of_scikit_learn_with_a_weighted_row_per_class(
    num_classes, tmp_path
):
    random = np.random.default_rng(0)
    soft = random.dirichlet(np.ones(num_classes), size=60).astype(np.float32)
    of, weights = (
        job("multiclass", kind="cross_entropy", class_weights="balanced"),
        np.arange(60) / 30,
    )
    vectorizer, vectors = Vectorizer.fit(of.model, TEXTS)
    model, warned = fit_linear(of, 2, vectorizer, vectors, soft, weights)
    assert warned == []
    x, new = plain_vectors()
    balance = positive_weights(of.loss, soft, weights)
    rows, classes = np.nonzero(soft)
    each = soft[rows, classes] * weights[rows] * balance[classes]
    plain = LogisticRegression(C=2, max_iter=1000).fit(x[rows], classes, each)
    found = softmax(model.logits(model.vectorizer.transform(NEW)), axis=1)
    np.testing.assert_allclose(found, plain.predict_proba(new), atol=1e-3)


def test_soft_flags_are_those_of_scikit_learn_with_a_positive_and_a_negative_row():
    random = np.random.default_rng(0)
    soft, weights = random.random((60, 2)).astype(np.float32), np.arange(60) / 30
    of = job("multilabel")
    vectorizer, vectors = Vectorizer.fit(of.model, TEXTS)
    model, _ = fit_linear(of, 2, vectorizer, vectors, soft, weights)
    x, new = plain_vectors()
    found = expit(model.logits(model.vectorizer.transform(NEW)))
    for k in range(2):
        each = np.concatenate([soft[:, k] * weights, (1 - soft[:, k]) * weights])
        plain = LogisticRegression(C=2, solver="liblinear", tol=1e-4)
        plain.fit(np.concatenate([x.toarray()] * 2), np.arange(120) < 60, each)
        np.testing.assert_allclose(found[:, k], plain.predict_proba(new)[:, 1], atol=5e-3)


def test_the_loss_of_soft_labels_is_that_of_both_sides():
    logits, soft = np.array([[0.0, 2.0]], np.float32), np.array([[0.5, 0.25]])
    # (0.5 · 3 log 2 + 0.5 log 2 + 0.25 log(1 + e⁻²) + 0.75 log(1 + e²)) / 2
    found = mean_loss(job("multilabel"), logits, soft, np.array([3.0, 1.0]))
    assert found == pytest.approx(1.506611)
