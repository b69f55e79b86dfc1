"""A bundle's probabilities are those of plain transformers, whatever is batched with what."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from toy_scorers import (
    MAX_LENGTH,
    META,
    NAMES,
    PAIRS,
    TASKS,
    TEXTS,
    expected,
    loud,
    opened,
    plain,
)
from transformers import (
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    pipeline,
)

from clftask.data.tokenization import tokenise
from clftask.errors import ConfigError, DataError, JobError, ModelError
from clftask.models.prediction import Prediction
from clftask.models.predictor import Scorer, load

# ------------------------------------------------------------------ equal to transformers


@pytest.mark.parametrize("task", TASKS)
def test_probabilities_are_those_of_transformers_pipeline(make_bundle, task):
    folder = make_bundle(task)
    classify = pipeline("text-classification", folder, top_k=None, device="cpu")
    found = opened(folder).predict(TEXTS)
    assert found.probabilities.shape == (12, 3)
    assert found.probabilities.dtype == np.float32
    for text, row in zip(TEXTS, found.probabilities, strict=True):
        (answer,) = classify([text], truncation=True, max_length=MAX_LENGTH)
        by_name = {entry["label"]: entry["score"] for entry in answer}
        assert dict(zip(NAMES, row.tolist(), strict=True)) == pytest.approx(by_name, abs=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 64, 4096])
@pytest.mark.parametrize("task", TASKS)
def test_results_depend_neither_on_batches_nor_on_the_order(make_bundle, task, max_tokens):
    folder = make_bundle(task)
    scorer = opened(folder, max_tokens)
    wanted = expected(folder, TEXTS, task)
    np.testing.assert_allclose(scorer.predict(TEXTS).probabilities, wanted, atol=1e-5)
    order = [5, 0, 11, 3, 3, 8, 1, 10, 2, 4, 6, 7, 9]
    shuffled = scorer.predict([TEXTS[i] for i in order])
    np.testing.assert_allclose(shuffled.probabilities, wanted[order], atol=1e-5)


def test_an_mlp_head_is_opened(make_bundle):
    folder = make_bundle("multilabel", head="mlp")
    found = opened(folder).predict(TEXTS).probabilities
    np.testing.assert_allclose(found, expected(folder, TEXTS, "multilabel"), atol=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 64, 4096])
def test_pairs_have_token_types(make_bundle, max_tokens):
    folder = make_bundle("multiclass", text_pair="second")
    scorer = opened(folder, max_tokens)
    first, second = (pa.array(column) for column in zip(*PAIRS, strict=True))
    types = scorer.tokenise(first, second)["token_type_ids"].to_pylist()
    assert all(set(row) == {0, 1} for row in types)
    found = scorer.predict(PAIRS).probabilities
    np.testing.assert_allclose(found, expected(folder, PAIRS, "multiclass"), atol=1e-5)
    without = plain(folder, PAIRS, return_token_type_ids=False)
    assert np.abs(plain(folder, PAIRS) - without).max() > 0.1


def test_left_padding_changes_nothing(tiny_base):
    config = Qwen2Config(
        vocab_size=200, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, max_position_embeddings=64,
        num_labels=3, pad_token_id=0,
    )  # fmt: skip
    model = loud(Qwen2ForSequenceClassification(config))
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    with torch.inference_mode():
        alone = [
            model(input_ids=torch.tensor([tokenizer(text)["input_ids"][:MAX_LENGTH]])).logits[0]
            for text in TEXTS[2:5]
        ]
    tokenizer.padding_side = "left"
    scorer = Scorer(model, tokenizer, META)
    found = scorer.logits(scorer.tokenise(pa.array(TEXTS[2:5]), None))
    np.testing.assert_allclose(found, torch.stack(alone).numpy(), atol=1e-4)
    assert found.std(0).min() > 0.05


def test_some_rows_of_a_token_table(make_bundle):
    scorer = opened(make_bundle())
    tokens = scorer.tokenise(pa.array(TEXTS), None)
    whole = scorer.logits(tokens)
    np.testing.assert_allclose(scorer.logits(tokens.slice(4, 3)), whole[4:7], atol=1e-5)
    pieces = pa.concat_tables([tokens.slice(6), tokens.slice(0, 2)])
    np.testing.assert_allclose(scorer.logits(pieces), whole[[*range(6, 12), 0, 1]], atol=1e-5)


@pytest.mark.parametrize("pair", [None, "second"])
def test_no_rows(make_bundle, pair):
    scorer = opened(make_bundle("multilabel", text_pair=pair))
    none = pa.array([], pa.large_string())
    tokens = scorer.tokenise(none, none if pair else None)
    assert tokens.num_rows == 0
    assert {"input_ids", "length", "is_truncated"} <= set(tokens.column_names)
    assert scorer.probabilities(tokens).shape == (0, 3)
    found = scorer.predict([])
    assert (found.labels, found.probabilities.shape) == ([], (0, 3))


def test_tokens_beyond_the_length_are_counted_and_not_read(make_bundle):
    scorer = opened(make_bundle())
    tokens = scorer.tokenise(pa.array(["the tool", " ".join(["tool"] * 30), TEXTS[1]]), None)
    assert tokens["length"].to_pylist() == [4, 32, 32]
    assert tokens["is_truncated"].to_pylist() == [False, False, True]
    beginning = " ".join(TEXTS[1].split()[:30])
    found = scorer.predict([TEXTS[1], beginning]).probabilities
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


# ------------------------------------------------------------------ equal texts


def rows_seen(scorer: Scorer, call: Any) -> int:
    """Return how many rows the model computes during a call."""
    seen = []
    hook = scorer.model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(len(inputs["input_ids"])), with_kwargs=True
    )
    call()
    hook.remove()
    return sum(seen)


def test_equal_texts_are_computed_once(make_bundle):
    scorer = opened(make_bundle())
    texts = pa.array([TEXTS[i] for i in (1, 0, 1, 1, 2, 0)])
    tokens = scorer.tokenise(texts, None)
    wanted = scorer.logits(scorer.tokenise(pa.array(TEXTS[:3]), None))[[1, 0, 1, 1, 2, 0]]
    assert rows_seen(scorer, lambda: scorer.logits(tokens)) == 3
    np.testing.assert_allclose(scorer.logits(tokens), wanted, atol=1e-6)
    assert tokens["is_truncated"].to_pylist() == [True, False, True, True, False, False]
    np.testing.assert_allclose(scorer.logits(tokens.slice(2, 3)), wanted[2:5], atol=1e-5)
    assert rows_seen(scorer, lambda: scorer.logits(tokens.slice(2, 3))) == 2


def test_equal_pairs_are_computed_once(make_bundle):
    scorer = opened(make_bundle("multilabel", text_pair="second"))
    rows = [("the", "tool"), ("tool", "the"), ("the", "tool"), ("the", "the"), ("tool", "the")]
    first, second = (pa.array(column) for column in zip(*rows, strict=True))
    tokens = scorer.tokenise(first, second)
    found = scorer.logits(tokens)
    assert rows_seen(scorer, lambda: scorer.logits(tokens)) == 3
    alone = [scorer.logits(scorer.tokenise(pa.array([a]), pa.array([b])))[0] for a, b in rows]
    np.testing.assert_allclose(found, alone, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_threads_may_tokenise_at_once(make_bundle, monkeypatch):
    """A tokenizer holds the truncation of a call; another call must not change it meanwhile."""
    scorer, calls, at_once = opened(make_bundle()), [0], []

    def noted(*given):
        calls[0] += 1
        at_once.append(calls[0])
        time.sleep(0.01)
        calls[0] -= 1
        return tokenise(*given)

    monkeypatch.setattr("clftask.models.predictor.tokenise", noted)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda text: scorer.tokenise(pa.array([text]), None), ["a", "b"] * 10))
    assert at_once == [1] * 20


def test_processes_that_tokenise_change_nothing(make_bundle):
    folder = make_bundle()
    scorer = opened(folder)
    given = pa.array([*TEXTS, *TEXTS[:2]] * 100)
    other = Scorer(scorer.model, scorer.tokenizer, scorer.meta)
    other.tokenise_in(1)
    assert other.tokenise(given, None).equals(scorer.tokenise(given, None))
    assert other.processes is not None
    other.processes.pool.shutdown()


# ------------------------------------------------------------------ precision


def test_bf16_keeps_the_last_layer_exact(make_bundle):
    folder = make_bundle("multilabel")
    scorer = load(folder, "cpu", "bf16")
    kinds = {name: parameter.dtype for name, parameter in scorer.model.named_parameters()}
    exact = {name for name, kind in kinds.items() if kind == torch.float32}
    assert exact == {"classifier.weight", "classifier.bias"}
    assert {kinds[name] for name in kinds.keys() - exact} == {torch.bfloat16}
    logits = scorer.logits(scorer.tokenise(pa.array(TEXTS), None))
    np.testing.assert_allclose(logits, plain(folder, TEXTS), atol=0.15)
    assert not np.array_equal(logits, torch.from_numpy(logits).bfloat16().float().numpy())


def test_fp16_needs_a_gpu(make_bundle):
    with pytest.raises(ConfigError, match=r"precision: needs a GPU \(found 'fp16'\)"):
        load(make_bundle(), "cpu", "fp16")


# ------------------------------------------------------------------ memory

GPU_IS_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


MACHINE_IS_FULL = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")


class Adding(torch.nn.Module):
    """The logits of a row: how many tokens it has, and the sum of their ids.

    Fails above some size (rows times padded length), and keeps the inputs.
    """

    def __init__(self, fits: int = 10**9, error: Exception = GPU_IS_FULL) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_labels=2)
        self.layer = torch.nn.Linear(2, 2, bias=False)
        torch.nn.init.eye_(self.layer.weight)
        self.fits, self.error, self.inputs = fits, error, []

    def forward(self, **inputs: torch.Tensor) -> Any:
        self.inputs.append(inputs)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if ids.numel() > self.fits:
            raise self.error
        return SimpleNamespace(logits=self.layer(torch.stack([mask.sum(1), ids.sum(1)], 1).float()))

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(inputs["input_ids"].shape) for inputs in self.inputs]


def scorer_of(model: Adding, max_tokens: int, padding_side: str = "right") -> Scorer:
    tokenizer = SimpleNamespace(padding_side=padding_side, pad_token_id=0)
    meta = META.model_copy(update={"label_names": ("length", "sum")})
    return Scorer(model, tokenizer, meta, max_tokens=max_tokens)


def tokens_of(rows: list[list[int]], **columns: Any) -> pa.Table:
    kind = pa.list_(pa.int32())
    lists = {"input_ids": rows, **columns}
    arrays = {name: pa.array(values, kind) for name, values in lists.items()}
    return pa.table({**arrays, "length": pa.array([len(row) for row in rows], pa.int32())})


ROWS = [[5], [1, 2, 3], [7, 7], [1, 1, 1, 1], [9]]


def test_rows_of_similar_lengths_share_a_batch():
    model = Adding()
    found = scorer_of(model, max_tokens=6).logits(tokens_of(ROWS))
    assert found.tolist() == [[1, 5], [3, 6], [2, 14], [4, 4], [1, 9]]
    assert model.shapes == [(1, 4), (2, 3), (2, 1)]


@pytest.mark.parametrize(
    ("side", "ids", "mask"),
    [
        ("right", [[1, 2, 3], [7, 7, 0]], [[1, 1, 1], [1, 1, 0]]),
        ("left", [[1, 2, 3], [0, 7, 7]], [[1, 1, 1], [0, 1, 1]]),
    ],
)
def test_padding(side, ids, mask):
    model = Adding()
    types = [[0, 1, 1], [1, 1]]
    table = tokens_of([[1, 2, 3], [7, 7]], token_type_ids=types)
    assert scorer_of(model, 100, side).logits(table).tolist() == [[3, 6], [2, 14]]
    (inputs,) = model.inputs
    assert {name: tensor.dtype for name, tensor in inputs.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), torch.int64
    )
    assert inputs["input_ids"].tolist() == ids
    assert inputs["attention_mask"].tolist() == mask
    assert inputs["token_type_ids"][1].tolist() == ([1, 1, 0] if side == "right" else [0, 1, 1])


@pytest.mark.parametrize("error", [GPU_IS_FULL, MACHINE_IS_FULL], ids=["GPU", "machine"])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(error):
    model = Adding(fits=50, error=error)
    scorer = scorer_of(model, max_tokens=320)
    rows = [[i] * 8 for i in range(40)]
    assert scorer.logits(tokens_of(rows)).tolist() == [[8, 8 * i] for i in range(40)]
    assert model.shapes == [(40, 8), (20, 8), (10, 8), *[(5, 8)] * 8]


def test_batches_after_one_that_does_not_fit_are_smaller_at_once():
    """One lesson is enough: else every waiting batch would fail, and halve the limit again."""
    model = Adding(fits=40)
    scorer = scorer_of(model, max_tokens=64)
    rows = [[i] * 8 for i in range(40)]
    scorer.logits(tokens_of(rows))
    assert model.shapes == [(8, 8), *[(4, 8)] * 10]
    assert scorer.max_tokens == 32
    model.inputs.clear()
    assert scorer.logits(tokens_of(rows[:9])).tolist() == [[8, 8 * i] for i in range(9)]
    assert model.shapes == [(4, 8), (4, 8), (1, 8)]


def test_a_small_batch_that_does_not_fit_is_halved_by_its_own_size():
    model = Adding(fits=8)
    assert scorer_of(model, max_tokens=4096).logits(tokens_of(ROWS)).tolist() == [
        [1, 5], [3, 6], [2, 14], [4, 4], [1, 9],
    ]  # fmt: skip
    assert model.shapes == [(5, 4), (2, 4), (3, 2)]


def test_one_row_that_does_not_fit_fails_the_job():
    scorer = scorer_of(Adding(fits=7), max_tokens=64)
    with pytest.raises(JobError, match="ran out of memory for one text of up to 32 tokens") as e:
        scorer.logits(tokens_of([[1] * 8, [2]]))
    assert (e.value.problems[0].path, e.value.problems[0].remedy) == (
        "cpu",
        "Use a larger machine.",
    )


def test_other_errors_are_no_lack_of_memory():
    model = Adding(fits=0, error=RuntimeError("mat1 and mat2 must have the same dtype"))
    with pytest.raises(ModelError, match="the same dtype"):
        scorer_of(model, max_tokens=64).logits(tokens_of(ROWS))
    assert len(model.inputs) == 1


def test_a_model_that_cannot_be_compiled_runs_as_it_is(monkeypatch):
    def broken(**inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda model, **options: broken)
    scorer = scorer_of(Adding(), max_tokens=64)
    assert not scorer.compile(tokens_of(ROWS[:1]))
    assert scorer.logits(tokens_of(ROWS[:1])).tolist() == [[1, 5]]


def test_the_layers_of_a_model_are_compiled(make_bundle, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call, **options: compiled.append(call) or call)
    scorer = load(make_bundle(), "cpu")
    wanted = scorer.predict(TEXTS).probabilities
    assert scorer.compile(scorer.tokenise(pa.array(TEXTS[:1]), None))
    layers = [*scorer.model.bert.encoder.layer]
    assert [call.__self__ for call in compiled] == layers == scorer.compiled
    np.testing.assert_array_equal(scorer.predict(TEXTS).probabilities, wanted)


def test_a_compiled_model_that_fails_later_runs_as_it_is(monkeypatch, caplog):
    def fails_for_two(model: Adding) -> Any:
        def forward(**inputs: Any) -> Any:
            if len(inputs["input_ids"]) == 2:
                raise RuntimeError("no kernel for this shape")
            return model(**inputs)

        return forward

    monkeypatch.setattr(torch, "compile", lambda model, **options: fails_for_two(model))
    model = Adding()
    scorer = scorer_of(model, max_tokens=6)
    assert scorer.compile(tokens_of(ROWS[:1]))
    assert scorer.is_compiled
    found = scorer.logits(tokens_of(ROWS))
    assert found.tolist() == [[1, 5], [3, 6], [2, 14], [4, 4], [1, 9]]
    assert not scorer.is_compiled
    assert caplog.messages == [
        "the model runs without torch.compile: RuntimeError: no kernel for this shape"
    ]


# ------------------------------------------------------------------ what predict takes

DATASET = datasets.Dataset.from_dict({"text": TEXTS[:3], "other": [1, 2, 3]})
FRAME = pd.DataFrame({"other": [1, 2, 3], "text": TEXTS[:3]}, index=[9, 8, 9])


@pytest.mark.parametrize(
    "texts",
    [
        TEXTS[:3],
        list(TEXTS[:3]),
        np.array(TEXTS[:3]),
        FRAME["text"],
        FRAME["text"].astype("category"),
        FRAME["text"].astype(object),
        FRAME,
        FRAME.astype({"text": "category"}),
        pa.Table.from_pandas(FRAME),
        pa.table({"text": pa.chunked_array([list(TEXTS[:1]), list(TEXTS[1:3])])}),
        pa.table({"text": pa.array(TEXTS[:3]).dictionary_encode()}),
        pa.table({"text": pa.array(TEXTS[:3], pa.string_view())}),
        pa.record_batch({"text": TEXTS[:3]}),
        pa.array(TEXTS[:3]),
        pa.chunked_array([TEXTS[:1], TEXTS[1:3]]),
        pl.DataFrame({"n": [1, 2, 3], "text": TEXTS[:3]}),
        pl.Series(TEXTS[:3]),
        DATASET,
        DATASET.with_format("numpy"),
        DATASET["text"],
        DATASET.to_iterable_dataset(),
        {"text": list(TEXTS[:3]), "other": [1]},
        {"text": FRAME["text"]},
        [{"text": text, "other": 1} for text in TEXTS[:3]],
        pd.Index(TEXTS[:3]),
        FRAME["text"].astype("string"),
    ],
    ids=lambda texts: type(texts).__name__,
)
def test_texts_in_any_shape(make_bundle, texts):
    folder = make_bundle()
    found = opened(folder).predict(texts)
    wanted = expected(folder, TEXTS[:3], "multiclass")
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5)
    assert found.labels == [NAMES[i] for i in wanted.argmax(1)]
    assert found.label_names == NAMES


@pytest.mark.parametrize("text", [TEXTS[4], np.str_(TEXTS[4]), {"text": TEXTS[4], "other": "x"}])
def test_a_single_text(make_bundle, text):
    scorer = opened(make_bundle("multilabel"))
    found = scorer.predict(text)
    np.testing.assert_allclose(found.probabilities, scorer.predict([TEXTS[4]]).probabilities)
    assert found.probabilities.shape == (1, 3)


def test_columns_are_joined_as_in_training(make_bundle):
    scorer = opened(make_bundle(text=("title", "body")))
    table = pd.DataFrame({"body": ["fast tool", " ", "audio"], "title": ["shader", "melody", None]})
    found = scorer.predict(table)
    joined = scorer.predict(["shader fast tool", "melody", "audio"])
    np.testing.assert_allclose(found.probabilities, joined.probabilities, atol=1e-6)


@pytest.mark.parametrize("second", ["second", "text"])
def test_pairs_in_any_shape(make_bundle, second):
    folder = make_bundle(text=("first",), text_pair=second)
    scorer = opened(folder)
    wanted = scorer.predict(PAIRS[:3]).probabilities
    np.testing.assert_allclose(wanted, expected(folder, PAIRS[:3], "multiclass"), atol=1e-5)
    columns = {"first": [a for a, _ in PAIRS[:3]], second: [b for _, b in PAIRS[:3]]}
    rows = [dict(zip(columns, pair, strict=True)) for pair in PAIRS[:3]]
    tables = columns, pa.table(columns), pd.DataFrame(columns), pl.DataFrame(columns), rows
    for texts in (*tables, datasets.Dataset.from_dict(columns), np.array(PAIRS[:3])):
        np.testing.assert_allclose(scorer.predict(texts).probabilities, wanted, atol=1e-6)
    for one in (PAIRS[0], rows[0], [list(PAIRS[0])]):
        np.testing.assert_allclose(scorer.predict(one).probabilities, wanted[:1], atol=1e-6)


def test_labels_by_the_threshold_of_the_bundle(make_bundle):
    low, high = (opened(make_bundle("multilabel", threshold=t)).predict(TEXTS) for t in (0.3, 0.7))
    np.testing.assert_array_equal(low.probabilities, high.probabilities)
    for found, threshold in ((low, 0.3), (high, 0.7)):
        assert found.labels == [
            [name for name, p in zip(NAMES, row, strict=True) if p > threshold]
            for row in found.probabilities
        ]
    assert sum(map(len, low.labels)) > sum(map(len, high.labels)) > 0


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], "texts, row 1: is null or blank"),
        (["a", "b", " \n"], "texts, row 2: is null or blank"),
        ([float("nan"), "a"], "texts, row 0: is null or blank"),
        ("", "texts, row 0: is null or blank"),
        (pd.Series(["a", None], index=[5, 6]), "texts, row 1: is null or blank"),
        (pd.DataFrame({"text": ["a", None]}), "texts, row 1: is null or blank"),
        (pa.table({"text": [None, "b"]}), "texts, row 0: is null or blank"),
        (["a", 1], "texts: must be strings"),
        ([("a", "b")], "texts: must be strings"),
        ([b"\xff"], "texts: must be strings"),
        (["\ud800"], "texts: must be strings"),
        (pd.DataFrame({"text": [1, 2]}), "column text: must be strings"),
        (pd.DataFrame({"text": ["a", 2]}, dtype=object), "column text: must be strings"),
        (pa.table({"text": [1, 2]}), "text column text: must be strings"),
        (pd.DataFrame({"body": ["a"]}), r"texts: must be a column of the table \(found 'text'\)"),
        (pa.table({"body": ["a"]}), r"texts: must be a column of the table \(found 'text'\)"),
        (["a", 1], "must be strings: row 1 is 1"),
        (["a", float("nan"), {"b": 1}], "must be strings: row 2 is {'b': 1}"),
        (3, r"must be one text, a list .* or a datasets.Dataset \(found 'int'\)"),
        (None, r"must be one text, .* \(found 'NoneType'\)"),
        (b"a", r"must be one text, .* \(found 'bytes'\)"),
        ({"a", "b"}, r"must be one text, .* \(found 'set'\)"),
        (np.array("a"), r"must be one text, .* \(found 'ndarray'\)"),
        (pa.array([1, 2]), "texts: must be strings: row 0 is 1"),
        (DATASET.rename_column("text", "x"), r"must be a column .*'text'.* Its columns: x, other"),
        ({"body": ["a"]}, r"must be a column of the table .* Its columns: body\."),
        ({}, r"must be a column of the table .* Its columns: none\."),
        ({"text": 3}, r"column text: must be strings: a list, an array or a Series \(found 'int'"),
        ({"text": "a", "n": [1]}, r"column text: must be strings: a list.* \(found 'str'\)"),
        ([{"text": "a"}, "b"], r"texts, row 1: must be a dict like the first row \(found 'str'"),
        (datasets.DatasetDict({"train": DATASET}), r"several splits \(found .*'train'"),
        (pl.DataFrame({"text": ["a"]}).lazy(), r"is lazy \(found 'LazyFrame'\)\. Collect it first"),
    ],
)
def test_what_is_no_text_is_refused(make_bundle, texts, message):
    with pytest.raises(DataError, match=message):
        opened(make_bundle()).predict(texts)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([("a", "b"), ("a", None)], "texts, row 1: is null or blank"),
        ([(" ", "b")], "texts, row 0: is null or blank"),
        (["ab", "cd"], r"texts, row 0: must be \(text, second text\)"),
        ("a text", r"texts, row 0: must be \(text, second text\)"),
        ([("a", "b"), None], r"texts, row 1: must be \(text, second text\)"),
        ([("a", "b"), ("c",)], r"texts, row 1: must be \(text, second text\)"),
        ([("a", 1)], "must be strings"),
        (pa.table({"text": ["a"]}), r"must be a column of the table \(found 'second'\)"),
        ({"text": ["a", "b"], "second": ["c"]}, r"same length \(found 'text 2, second 1'\)"),
        (7, r"must be \(text, second text\) tuples, .* \(found 'int'\)"),
    ],
)
def test_what_is_no_pair_is_refused(make_bundle, texts, message):
    with pytest.raises(DataError, match=message):
        opened(make_bundle(text_pair="second")).predict(texts)


# ------------------------------------------------------------------ predictions


def test_a_bundle_and_its_predictions_say_what_they_are(make_bundle):
    folder = make_bundle()
    scorer = load(folder, "cpu", "fp32")
    assert repr(scorer) == (
        f"<Scorer of bundle {folder}: multiclass, 3 labels "
        "('network', 'a label: of its own', 'größe'), fine-tuned from tiny; fp32 on cpu>"
    )
    found = scorer.predict(TEXTS)
    shown = ", ".join(map(repr, found.labels[:5]))
    assert repr(found) == f"<Prediction of 12 texts (multiclass, 3 labels): {shown}, …>"
    assert len(found) == 12
    assert "<th>p_größe</th>" in found._repr_html_()


HALVES = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


@pytest.mark.parametrize(
    ("task", "labels", "column"),
    [("multiclass", ["b", "a"], "label"), ("multilabel", [["b"], []], "labels")],
)
def test_predictions_as_a_data_frame(task, labels, column):
    frame = Prediction(labels, HALVES, ("a", "b"), task).to_pandas()
    assert list(frame) == [column, "p_a", "p_b"]
    assert frame[column].tolist() == labels
    assert frame["p_b"].tolist() == [0.75, 0.5]
    assert str(frame["p_b"].dtype) == "float32"
    assert list(Prediction([], HALVES[:0], ("a", "b"), task).to_pandas()) == [column, "p_a", "p_b"]
