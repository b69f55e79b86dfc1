"""What a search needs on disk, in bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clftask.config.sections import ModelSpec
from clftask.config.tune import TuneJob
from clftask.errors import ConfigError, Problem
from clftask.models.loading import num_parameters
from clftask.tuning.storage_budget import check_disk, peak_bytes

RATES = {"training.learning_rate": {"kind": "loguniform", "low": 1e-5, "high": 1e-3}}


def job(base: str = "pkg://some_package/model", optimizer: str = "adamw", **fields: Any) -> TuneJob:
    data = {"train": "/d.csv", "text": "body", "labels": {"kind": "list", "column": "tags"}}
    train = {"task": "multilabel", "data": data, "model": {"base": base}}
    train["training"] = {"optimizer": optimizer, "epochs": 9}
    return TuneJob.load({"train": train, "space": RATES} | fields)


FINALISTS = {"top": 3, "seeds": 2}


# Of 1000 weights: 4000 bytes; with Adam's two states 12 000, with Adafactor's one 8000.
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # 4 trials x 2 checkpoints of 12 000; 6 finalists + 4 under way, and a bundle: 11 x 4000.
        ({"finalists": FINALISTS}, 96_000 + 44_000),
        ({"finalists": FINALISTS, "optimizer": "sgd"}, 32_000 + 44_000),
        ({"finalists": FINALISTS, "optimizer": "adafactor"}, 64_000 + 44_000),
        # Best weights of 4 trials, each for a moment twice, of the best, and a bundle: 10 x 4000.
        ({"finalists": None}, 96_000 + 40_000),
        # 16 trials that may all go on, 3 checkpoints each: 48 x 12 000, and a bundle.
        ({"finalists": FINALISTS, "scheduler": "hyperband"}, 576_000 + 4_000),
        ({"finalists": FINALISTS, "scheduler": "hyperband", "trials": 5}, 180_000 + 4_000),
        # And in a population the best weights of each: 34 x 4000.
        ({"scheduler": "pbt"}, 576_000 + 136_000),
        # A single trial has a single finalist a seed: 4 x 2 x 12 000; (2 + 4 + 1) x 4000.
        ({"finalists": FINALISTS, "trials": 1}, 96_000 + 28_000),
    ],
)
def test_peaks_of_4_trials_side_by_side(fields: dict[str, Any], expected: int) -> None:
    assert peak_bytes(job(**fields), concurrency=4, num_weights=1000) == expected


def test_the_largest_state_that_is_searched_counts() -> None:
    optimizers = {"kind": "choice", "values": ["sgd", "adamw"]}
    space = RATES | {"training.optimizer": optimizers}
    searched = job(optimizer="sgd", space=space, finalists=FINALISTS)
    assert peak_bytes(searched, concurrency=4, num_weights=1000) == 96_000 + 44_000


# The tiny model has 10 032 weights; a head for 3 labels adds 16 x 16 + 16 x 3: 10 336.
TINY_PEAK = 992_256 + 289_408  # 8 checkpoints of 124 032, and 7 weights of 41 344 bytes


def test_a_budget_that_holds_the_search_is_enough(tiny_base: Path) -> None:
    finalists = {"top": 1, "seeds": 2}
    check_disk(job(str(tiny_base), storage_budget=TINY_PEAK, finalists=finalists), 4, 3)
    check_disk(job(str(tiny_base), storage_budget=None, finalists=finalists), 400, 3)


def test_a_budget_that_does_not_is_refused(tiny_base: Path) -> None:
    finalists = {"top": 1, "seeds": 2}
    short = job(str(tiny_base), storage_budget=TINY_PEAK - 1, finalists=finalists)
    with pytest.raises(ConfigError) as caught:
        check_disk(short, 4, 3)
    assert caught.value.exit_code == 2
    assert caught.value.problems == (
        Problem(
            "storage_budget",
            "1.3MB",
            "the search needs up to 1.3MB: 4 trials at a time, 2 sets of weights kept",
            "Raise it, or lower concurrency, finalists or trials.",
        ),
    )


def test_the_refusal_says_why_paused_trials_need_room(tiny_base: Path) -> None:
    waiting = job(str(tiny_base), storage_budget="1MB", scheduler="hyperband", trials=30)
    with pytest.raises(ConfigError, match=r"30 trials that hyperband may resume \(found '1.0"):
        check_disk(waiting, 1, 3)


def test_the_largest_base_that_is_searched_counts(tiny_base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BertConfig

    large = tmp_path / "large"
    config = BertConfig.from_pretrained(tiny_base, vocab_size=100_000)
    config.save_pretrained(large)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(large)
    bases = {"kind": "choice", "values": [str(tiny_base), str(large)]}
    finalists = {"top": 1, "seeds": 2}
    searched = job(
        str(tiny_base), space={"model.base": bases}, storage_budget=TINY_PEAK, finalists=finalists
    )
    # 1 607 136 weights of 4 bytes: 8 checkpoints of three such, and 7 weights.
    with pytest.raises(ConfigError, match=r"the search needs up to 199\.3MB"):
        check_disk(searched, 4, 3)


def test_checkpoints_of_adapters_are_small() -> None:
    # 10 of 1000 weights are saved: 4 x 2 x 120 bytes; 6 finalists + 4 under way, 40 each.
    needed = peak_bytes(job(finalists=FINALISTS), concurrency=4, num_weights=1000, num_saved=10)
    assert needed == 960 + 400 + 4_000  # and a bundle


def test_an_adapter_counts_without_its_base(tiny_base: Path) -> None:
    spec = ModelSpec(base=str(tiny_base), adapt={"kind": "lora", "r": 4, "targets": ["query"]})
    found = num_parameters(spec, num_labels=3)
    assert found.all == 10_336
    assert found.saved == 2 * 4 * (16 + 16) + 16 * 16 + 16 + 304  # two layers, pooler, head
