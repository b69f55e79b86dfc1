"""The bundle or the cascade of bundles that a scoring job names, opened as one scorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
        large: The tokens of the large bundle: of all rows, or of those that `first` leaves.
        first: The small bundle's answers, if they are there before a shard is computed.
    """

    small: pa.Table
    large: pa.Table
    first: Answers | None = None

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return int(self.small.num_rows)

    def slice(self, start: int, num_rows: int) -> CascadeTokens:
        """Return some consecutive rows."""
        small = self.small.slice(start, num_rows)
        if self.first is None:
            return CascadeTokens(small, self.large.slice(start, num_rows))
        first = self.first.slice(start, num_rows)
        before = len(_left_by(self.first.slice(0, start)))
        large = self.large.slice(before, len(_left_by(first)))
        return CascadeTokens(small, large, first)


class CascadeScorer:
    """Two opened bundles: the small one answers where its certainty reaches the limit.

    A linear small bundle answers in `tokenise`, while the large one computes other rows, and
    only the rows that it leaves are tokenised. Other small bundles need the device: their rows
    are tokenised for both bundles, once if both read the same tokens.

    Args:
        small: The small bundle.
        large: The large bundle.
        limit: The fitted limit.
    """

    def __init__(self, small: Predictor, large: Predictor, limit: CascadeLimit) -> None:
        self.small, self.large, self.limit = small, large, limit
        self.device, self.precision = large.device, large.precision
        self.has_same_tokens = small.reading is not None and small.reading == large.reading

    def tokenise(self, texts: Any, pairs: Any | None) -> CascadeTokens:
        """Return what `answers` reads of (rows,) Arrow strings."""
        tokens = self.small.tokenise(texts, pairs)
        if self.has_same_tokens:
            return CascadeTokens(tokens, tokens)
        if not self.small.meta.is_linear:
            return CascadeTokens(tokens, self.large.tokenise(texts, pairs))
        first = self._first(tokens)
        left = pa.array(_left_by(first))
        pairs = None if pairs is None else pairs.take(left)
        return CascadeTokens(tokens, self.large.tokenise(texts.take(left), pairs), first)

    def tokenise_in(self, processes: int) -> None:
        """Tokenise in so many processes: of the bundle whose tokens both read, or half for each."""
        both = not self.has_same_tokens and not self.small.meta.is_linear
        share = max(1, processes // 2) if both and processes else processes
        self.small.tokenise_in(share)
        self.large.tokenise_in(0 if self.has_same_tokens else share)

    def answers(self, tokens: CascadeTokens) -> Answers:
        """Return the decided rows; each is decided by the rule of the bundle that answers.

        Raises:
            ModelError, JobError: As `Scorer.logits`.
        """
        first, large = tokens.first, tokens.large
        if first is None:
            first = self._first(tokens.small)
            large = large.take(pa.array(_left_by(first)))
        left = _left_by(first)
        if not len(left):
            return first
        second = self.large.answers(large)

        def merged(small: Any, large: Any) -> Any:
            found = None if small is None else small.copy()
            if found is not None:
                found[left] = large
            return found

        outcome = Outcome(*map(merged, first.outcome, second.outcome))
        truncated = merged(first.is_truncated, second.is_truncated)
        return replace(first, outcome=outcome, is_truncated=truncated)

    def _first(self, tokens: pa.Table) -> Answers:
        """Return the small bundle's answers, and which of them are used."""
        found, meta = self.small.answers(tokens), self.small.meta
        sure = certainty(found.outcome.probabilities, meta.decision, meta.task)
        return replace(found, by_small=self.limit.answers(sure))

    @property
    def is_compiled(self) -> bool:
        """Whether one of the models is compiled."""
        return self.small.is_compiled or self.large.is_compiled

    def compile(self, sample: CascadeTokens) -> bool:
        """Compile both models; return whether one succeeded."""
        self.small.compile(sample.small)
        if sample.large.num_rows:
            self.large.compile(sample.large)
        return self.is_compiled


def _left_by(first: Answers) -> npt.NDArray[np.int64]:
    """Return the rows that the small bundle leaves to the large one."""
    assert first.by_small is not None
    return np.flatnonzero(~first.by_small)


@dataclass
class Opener:
    """Opens bundles on a device; one that is open in the precision is not opened again.

    Attributes:
        device: cpu, cuda …
        processes: How many processes tokenise once all are open; 0: threads do.
    """

    device: str
    processes: int = 0
    _known: dict[str, Predictor] = field(default_factory=dict)  # by fingerprint

    def open(self, found: LocalBundle, precision: str) -> Predictor:
        """Open one bundle; in another precision, the caller has dropped it before.

        Raises:
            DataError: It cannot be opened.
        """
        known = self._known.pop(found.meta.fingerprint, None)
        if known is None or (known.precision != precision and not found.meta.is_linear):
            del known  # a device may not have the memory for both
            known = self._opened(found, precision)
        self._known[found.meta.fingerprint] = known
        return known

    def _opened(self, found: LocalBundle, precision: str) -> Predictor:
        if found.meta.is_linear:  # needs no torch, which `open_scorer` imports for seconds
            return open_linear(found.folder, found.meta)
        from clftask.models.predictor import open_scorer

        return open_scorer(found.folder, found.meta, self.device, precision)

    def open_all(
        self, bundles: Sequence[LocalBundle], precision: str, limit: CascadeLimit | None = None
    ) -> Predictor | CascadeScorer:
        """Open the result of `fetch`; of a cascade without a limit, the large bundle alone.

        Raises:
            DataError: One cannot be opened.
        """
        used = bundles if limit is not None and limit.limit is not None else bundles[-1:]
        *smaller, large = [self.open(found, precision) for found in used]
        scorer = CascadeScorer(smaller[0], large, limit) if smaller and limit else large
        scorer.tokenise_in(self.processes)
        return scorer
