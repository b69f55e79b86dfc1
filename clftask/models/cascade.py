"""The bundle or the cascade of bundles that a scoring job names, opened as one scorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clftask.array_types import Array
from clftask.components.decision.cascade import CascadeLimit, certainty
from clftask.components.decision.decision import Outcome
from clftask.components.text import TextRecipe
from clftask.config.score import ScoreJob
from clftask.errors import ConfigError, Problem
from clftask.messages import counted, shown_label
from clftask.models import bundle
from clftask.models.answers import Answers
from clftask.models.bundle_meta import BundleMeta
from clftask.models.linear_scorer import open_linear
from clftask.models.prediction import Predictor

NUM_SHOWN = 5  # labels in a message


class CascadeMeta(BundleMeta):
    """The two bundles of a cascade as one: all but these fields are the large one's.

    Attributes:
        fingerprint: Both fingerprints, the small bundle's first.
        small: The small bundle.
    """

    small: BundleMeta

    @property
    def is_linear(self) -> bool:
        """Whether both are."""
        return self.small.is_linear and super().is_linear


@dataclass(frozen=True)
class LocalBundle:
    """A verified bundle in a local folder."""

    folder: str
    meta: BundleMeta


def fetch(job: ScoreJob, scratch: str) -> list[LocalBundle]:
    """Download and verify the bundles of a job, the large one of a cascade last.

    Raises:
        DataError: One is missing or damaged.
    """
    found = []
    for number, path in enumerate(job.bundles.values()):
        own = Path(scratch, str(number))
        own.mkdir()
        found.append(LocalBundle(*bundle.fetch(path, str(own))))
    return found


def as_one(job: ScoreJob, metas: Sequence[BundleMeta]) -> BundleMeta:
    """Return the metadata of a job's table.

    Raises:
        ConfigError: The bundles of a cascade do not fit each other; names each difference.
    """
    *smaller, large = metas
    if not smaller:
        return large
    (small,) = smaller
    problems = [*_differences(job, small, large)]
    if problems:
        raise ConfigError(*problems)
    both = f"{small.fingerprint}+{large.fingerprint}"
    return CascadeMeta(**{**dict(large), "fingerprint": both}, small=small)


def _differences(job: ScoreJob, small: BundleMeta, large: BundleMeta) -> Iterator[Problem]:
    def problem(allowed: str, remedy: str = "") -> Problem:
        return Problem("bundle.cascade", None, allowed, remedy)

    if small.fingerprint == large.fingerprint:
        yield problem("names the same bundle twice", "Name a smaller one first.")
        return
    retrain = "Train both on the same labels, for example with data.labels.names."
    if small.task != large.task:
        yield problem(f"the small bundle is {small.task}, the large one {large.task}", retrain)
    elif small.label_names != large.label_names:
        yield problem(_other_labels(small.label_names, large.label_names), retrain)
    own, other = (_read(job.input.recipe(meta.text)) for meta in (small, large))
    if own != other:
        allowed = f"the small bundle reads {own}, the large one {other}"
        yield problem(allowed, "Set input.text, and input.text_pair of pairs, for both.")
    if (small.decision.sets is None) != (large.decision.sets is None):
        allowed = "only one of the bundles has prediction sets"
        yield problem(allowed, "Use decision.sets in both trainings or in none.")


def _other_labels(small: tuple[str, ...], large: tuple[str, ...]) -> str:
    pairs = (("small", small, large), ("large", large, small))
    only = {size: [name for name in own if name not in set(other)] for size, own, other in pairs}
    if not any(only.values()):
        return "the bundles have the same labels in another order"
    found = []
    for size, names in only.items():
        shown = ", ".join(map(shown_label, names[:NUM_SHOWN]))
        more = ", …" if len(names) > NUM_SHOWN else ""
        if names:
            found.append(f"{counted(len(names), 'label')} only in the {size} one ({shown}{more})")
    return f"the bundles have different labels: {', '.join(found)}"


def _read(recipe: TextRecipe) -> str:
    """Return in words what a bundle reads; without what does not matter."""
    text = repr(recipe.separator).join(recipe.text)
    return text if recipe.text_pair is None else f"{text} and {recipe.text_pair}"


# ------------------------------------------------------------------ scoring


@dataclass(frozen=True)
class CascadeTokens:
    """Rows for a cascade.

    Attributes:
        small: The tokens of the small bundle.
        texts: (rows,) the texts, which the large bundle tokenises where it is needed.
        pairs: (rows,) the second texts of a pair task, or None.
    """

    small: Any
    texts: Any
    pairs: Any | None

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self.texts)

    def slice(self, start: int, num_rows: int) -> CascadeTokens:
        """Return some consecutive rows."""
        pairs = None if self.pairs is None else self.pairs.slice(start, num_rows)
        small, texts = (column.slice(start, num_rows) for column in (self.small, self.texts))
        return CascadeTokens(small, texts, pairs)


class CascadeScorer:
    """Two opened bundles: the small one answers where its certainty reaches the limit.

    Args:
        small: The small bundle.
        large: The large bundle.
        limit: The fitted limit.
    """

    def __init__(self, small: Predictor, large: Predictor, limit: CascadeLimit) -> None:
        self.small, self.large, self.limit = small, large, limit
        self.device, self.precision = large.device, large.precision

    def tokenise(self, texts: Any, pairs: Any | None) -> CascadeTokens:
        """Return the tokens of (rows,) Arrow strings for the small bundle."""
        return CascadeTokens(self.small.tokenise(texts, pairs), texts, pairs)

    def answers(self, tokens: CascadeTokens) -> Answers:
        """Return the decided rows; each is decided by the rule of the bundle that answers.

        Raises:
            ModelError, JobError: As `Scorer.logits`.
        """
        first, meta = self.small.answers(tokens.small), self.small.meta
        sure = certainty(first.outcome.probabilities, meta.decision, meta.task)
        by_small = self.limit.answers(sure)
        left = np.flatnonzero(~by_small)
        if not len(left):
            return replace(first, by_small=by_small)
        second = self.large.answers(self._tokenised(tokens, left))

        def merged(small: Any, large: Any) -> Any:
            found = None if small is None else small.copy()
            if found is not None:
                found[left] = large
            return found

        outcome = Outcome(*map(merged, first.outcome, second.outcome))
        truncated = merged(first.is_truncated, second.is_truncated)
        return replace(first, outcome=outcome, is_truncated=truncated, by_small=by_small)

    def _tokenised(self, tokens: CascadeTokens, rows: Array) -> Any:
        """Return the tokens of some rows for the large bundle."""
        chosen = pa.array(rows)
        pairs = None if tokens.pairs is None else tokens.pairs.take(chosen)
        return self.large.tokenise(tokens.texts.take(chosen), pairs)

    @property
    def is_compiled(self) -> bool:
        """Whether one of the models is compiled."""
        return self.small.is_compiled or self.large.is_compiled

    def compile(self, sample: CascadeTokens) -> bool:
        """Compile both models; return whether one succeeded."""
        self.small.compile(sample.small)
        self.large.compile(self._tokenised(sample, np.arange(sample.num_rows)))
        return self.is_compiled


def open_bundles(
    bundles: Sequence[LocalBundle],
    device: str,
    precision: str,
    limit: CascadeLimit | None = None,
    processes: int = 0,
) -> Predictor | CascadeScorer:
    """Open the result of `fetch`; of a cascade without a limit, the large bundle alone.

    Raises:
        DataError: One cannot be opened.
    """
    used = bundles if limit is not None and limit.limit is not None else bundles[-1:]
    *smaller, large = [_opened(found, device, precision, processes) for found in used]
    return CascadeScorer(smaller[0], large, limit) if smaller and limit else large


def _opened(found: LocalBundle, device: str, precision: str, processes: int) -> Predictor:
    if found.meta.is_linear:  # needs no torch, which `open_scorer` imports for seconds
        return open_linear(found.folder, found.meta)
    from clftask.models.predictor import open_scorer

    return open_scorer(found.folder, found.meta, device, precision, processes=processes)
