"""Two bundles as one scorer: what they must share, and who answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cascades import linear_copy
from toy_scorers import META, NAMES, TEXTS

from clftask.components.decision.cascade import CascadeLimit, certainty
from clftask.components.decision.conformal import SetRule
from clftask.components.text import TextRecipe
from clftask.config.score import ScoreJob
from clftask.errors import ConfigError
from clftask.models.bundle_meta import BundleMeta
from clftask.models.cascade import CascadeScorer, Opener, as_one, fetch
from clftask.models.predictor import Scorer


def job(small: str = "/a", large: str = "/b", **text: Any) -> ScoreJob:
    given = {"cascade": [small, large]}
    return ScoreJob.load(
        {"bundle": given, "input": {"path": "/in", **text}, "output": {"path": "/out"}}
    )


def meta(fingerprint: str, **fields: Any) -> BundleMeta:
    return META.model_copy(update={"fingerprint": fingerprint, **fields})


def some_limit(limit: float) -> CascadeLimit:
    return CascadeLimit(promised=0.9, limit=limit, rows=1, answered=1, agreed=1)


def test_the_table_is_that_of_the_large_bundle_with_both_fingerprints():
    small, large = meta("aa"), meta("bb", max_length=16)
    found = as_one(job(), [small, large])
    assert (found.fingerprint, found.max_length, found.small) == ("aa+bb", 16, small)
    assert as_one(job(), [large]) == large


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"fingerprint": "bb"}, "names the same bundle twice"),
        ({"task": "multilabel"}, "the small bundle is multilabel, the large one multiclass"),
        ({"label_names": NAMES[::-1]}, "the bundles have the same labels in another order"),
        (
            {"label_names": (*NAMES[:2], "new", "x")},
            "2 labels only in the small one (new, x), 1 label only in the large one (größe)",
        ),
        (
            {"text": TextRecipe(text=("title", "text"))},
            r"the small bundle reads title'\n\n'text, the large one text",
        ),
        (
            {"decision": META.decision.model_copy(
                update={"sets": SetRule(coverage=0.9, threshold=0.1)})},
            "only one of the bundles has prediction sets",
        ),
    ],
)  # fmt: skip
def test_bundles_that_do_not_fit_are_refused(fields, expected):
    with pytest.raises(ConfigError) as caught:
        as_one(job(), [meta("aa").model_copy(update=fields), meta("bb")])
    (problem,) = caught.value.problems
    assert problem.path == "bundle.cascade"
    assert expected in str(problem).replace("\\\\n", "\\n")


def test_all_differences_are_named_at_once_and_the_job_can_set_the_text():
    small = meta("aa", label_names=NAMES[::-1], text=TextRecipe(text=("title",), separator=" "))
    with pytest.raises(ConfigError) as caught:
        as_one(job(), [small, meta("bb")])
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError) as caught:
        as_one(job(text="body"), [small, meta("bb")])
    assert len(caught.value.problems) == 1  # the separator of one column does not matter


@pytest.mark.parametrize(("task", "paired"), [("multiclass", False), ("multilabel", True)])
def test_each_row_is_that_of_the_bundle_that_answers(make_bundle, tmp_path, task, paired):
    given = {"task": task, "text_pair": "other" if paired else None}
    paths = make_bundle(**given, threshold=0.3), make_bundle(**given, head="mlp")
    found = fetch(job(*paths), str(tmp_path))
    texts = pa.chunked_array([pa.array([*TEXTS, *TEXTS[:3]], pa.large_string())])
    pairs = texts if paired else None
    small, large = (Opener("cpu").open(one, "fp32") for one in found)
    first, second = (one.answers(one.tokenise(texts, pairs)) for one in (small, large))
    sure = certainty(first.outcome.probabilities, small.meta.decision, task)
    limit = some_limit(float(np.median(sure)))

    both = Opener("cpu").open_all(found, "fp32", limit)
    assert isinstance(both, CascadeScorer)
    tokens = both.tokenise(texts, pairs)
    assert tokens.large is tokens.small  # both read the same tokens
    answers = both.answers(tokens)
    by_small = sure >= limit.limit
    assert 0 < by_small.sum() < len(texts)
    assert answers.by_small.tolist() == by_small.tolist()
    for mixed, own, other in zip(answers.outcome, first.outcome, second.outcome, strict=True):
        if mixed is not None:
            wanted = np.where(by_small[:, None], own, other)
            np.testing.assert_allclose(mixed, wanted, atol=1e-5)
    assert answers.is_truncated.tolist() == first.is_truncated.tolist()
    few = both.answers(tokens.slice(2, 4))
    assert few.by_small.tolist() == by_small[2:6].tolist()

    nobody, all_ = CascadeLimit(promised=0.9), some_limit(0.0)
    assert (
        Opener("cpu").open_all(found, "fp32", nobody).answers(large.tokenise(texts, pairs)).by_small
        is None
    )
    assert Opener("cpu").open_all(found, "fp32", all_).answers(tokens).by_small.all()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_linear_bundle_answers_before_the_others_are_computed(make_bundle, tmp_path, task):
    """Only the rows that it leaves are tokenised for the large bundle."""
    path = make_bundle(task=task)
    found = fetch(job(linear_copy(path, tmp_path / "small"), path), str(tmp_path))
    texts = pa.chunked_array([pa.array([*TEXTS, *TEXTS[:3]], pa.large_string())])
    opener = Opener("cpu")
    small, large = (opener.open(one, "fp32") for one in found)
    first, second = (one.answers(one.tokenise(texts, None)) for one in (small, large))
    sure = certainty(first.outcome.probabilities, small.meta.decision, task)

    both = opener.open_all(found, "fp32", some_limit(float(np.median(sure))))
    assert (both.small, both.large) == (small, large)  # opened once
    assert opener.open(found[1], "bf16") is not large
    tokens = both.tokenise(texts, None)
    by_small = sure >= both.limit.limit
    assert tokens.first.by_small.tolist() == by_small.tolist()
    assert 0 < tokens.large.num_rows == (~by_small).sum() < len(texts)
    answers = both.answers(tokens)
    wanted = np.where(by_small[:, None], first.outcome.decided, second.outcome.decided)
    assert answers.outcome.decided.tolist() == wanted.tolist()
    truncated = np.where(by_small, False, second.is_truncated)
    assert answers.is_truncated.tolist() == truncated.tolist()
    few = both.answers(tokens.slice(2, 9))
    assert few.outcome.decided.tolist() == wanted[2:11].tolist()
    assert few.by_small.tolist() == by_small[2:11].tolist()
    all_ = opener.open_all(found, "fp32", some_limit(0.0)).tokenise(texts, None)
    assert (all_.large.num_rows, both.answers(all_).by_small.all()) == (0, True)


def test_other_tokens_are_made_for_both_before_the_rows_are_computed(make_bundle, tmp_path):
    path = make_bundle()
    found = fetch(job(path, path), str(tmp_path))
    small = Opener("cpu").open(found[0], "fp32")
    short = small.meta.model_copy(update={"max_length": 16})
    large = Scorer(small.model, small.tokenizer, short)
    texts = pa.array(TEXTS)
    both = CascadeScorer(small, large, some_limit(0.9))
    tokens = both.tokenise(texts, None)
    assert max(tokens.small["length"].to_pylist()) == 32
    assert max(tokens.large["length"].to_pylist()) == 16
    by_small = both.answers(tokens).by_small
    assert 0 < by_small.sum() < len(texts)
    expected = np.where(
        by_small[:, None],
        *(one.probabilities(one.tokenise(texts, None)) for one in (small, large)),
    )
    np.testing.assert_allclose(both.answers(tokens).outcome.probabilities, expected, atol=1e-5)
    alike = CascadeScorer(small, Scorer(small.model, small.tokenizer, small.meta), both.limit)
    both.tokenise_in(4)  # CPUs are shared
    assert [one.processes.pool._max_workers for one in (small, large)] == [2, 2]
    alike.tokenise_in(4)
    assert (alike.small.processes.pool._max_workers, alike.large.processes) == (4, None)
    alike.tokenise_in(0)
    assert small.processes is None
