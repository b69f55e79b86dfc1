"""Truncation and windowing of long texts, for training and scoring alike.

To add a policy: write its class and add it to `LongText`.
"""

from __future__ import annotations

import copy
import re
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from clftask.array_types import Array
from clftask.errors import Problem
from clftask.spec import BareKind, Spec

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

MAX_CHARS = 4_000_000  # tokenised at once: before truncation a token takes about 100 bytes
Ids = list[int]


class LongTextSpec(Spec):
    """Base class of the policies."""

    kind: str
    takes_pairs: ClassVar[bool] = False

    @abstractmethod
    def num_read(self, max_length: int) -> int | None:
        """Return how many tokens from the beginning are used; None if the end is used as well."""

    def num_whole(self, max_length: int, num_special: int = 2) -> int:
        """Return the length in tokens of the longest text that is read whole.

        Args:
            max_length: Maximum number of tokens of one model input.
            num_special: Special tokens of one model input.
        """
        return max_length

    def problems(self, max_length: int) -> list[Problem]:
        """Return the fields that are invalid with this length, by their names in the policy."""
        return []

    @abstractmethod
    def encoded(
        self, texts: list[str], pairs: list[str] | None, tokenizer: Any, max_length: int
    ) -> pa.Table:
        """Tokenise texts.

        Returns:
            input_ids and, for pairs, token_type_ids (list<int32>); windows (list<int32>), if the
            policy has windows: the lengths of a row's windows, which are concatenated in its
            input_ids; length (int32): tokens that are read; num_tokens (int32): tokens of the
            text; is_truncated.
        """

    def pooled(self, logits: Array, counts: Array | None) -> Array:
        """Return (rows, labels) logits.

        Args:
            logits: (windows, labels), row after row.
            counts: (rows,) windows of each row, at least 1; None if each row has one.
        """
        return logits

    def pooled_tensor(self, logits: torch.Tensor, counts: list[int] | None) -> torch.Tensor:
        """Return (rows, labels) logits as `pooled` does, but differentiable."""
        return logits

    @abstractmethod
    def words(self, max_length: int) -> str:
        """Return a description of what is read."""


class KeepHead(LongTextSpec):
    """The beginning of the text is read."""

    kind: Literal["head"] = "head"
    takes_pairs: ClassVar[bool] = True

    def num_read(self, max_length: int) -> int:
        """Return `max_length`."""
        return max_length

    def encoded(
        self, texts: list[str], pairs: list[str] | None, tokenizer: Any, max_length: int
    ) -> pa.Table:
        """Tokenise texts with the tokenizer's own truncation."""
        import pyarrow as pa

        columns, encodings = _head_ids(texts, pairs, tokenizer, max_length)
        length = np.array([len(ids) for ids in columns["input_ids"]], np.int32)
        is_cut = length >= max_length
        full = np.flatnonzero(is_cut)
        if encodings:
            is_cut[full] = [bool(encodings[i].overflowing) for i in full]
        else:  # a tokenizer in Python does not tell what it cut
            second = None if pairs is None else [pairs[i] for i in full]
            whole = whole_ids([texts[i] for i in full], tokenizer, second)
            is_cut[full] = [len(ids) > max_length for ids in whole]
        lists = {n: pa.array(ids, pa.list_(pa.int32())) for n, ids in columns.items()}
        return pa.table({**lists, **_lengths(length, length, is_cut)})

    def words(self, max_length: int) -> str:
        """Return a description of what is read."""
        return f"the first {max_length} tokens"


class KeepHeadTail(LongTextSpec):
    """The beginning and the end of the text are read (Sun et al. 2019).

    Attributes:
        head: Share of the tokens from the beginning; a quarter as in the paper, where 128 of
            510 were best.
    """

    kind: Literal["head_tail"] = "head_tail"
    head: float = Field(0.25, gt=0, lt=1)

    def num_read(self, max_length: int) -> None:
        """Return None."""

    def encoded(
        self, texts: list[str], pairs: list[str] | None, tokenizer: Any, max_length: int
    ) -> pa.Table:
        """Tokenise texts whole, and remove the middle of long ones."""
        import pyarrow as pa

        before, after = num_special(tokenizer)
        size = max_length - before - after
        head = before + min(max(1, round(self.head * size)), max(1, size - 1))
        tail = max_length - head
        ids, num_tokens = [], []
        for whole in whole_ids(texts, tokenizer):
            num_tokens.append(len(whole))
            is_long = len(whole) > max_length
            ids.append(whole[:head] + whole[len(whole) - tail :] if is_long else whole)
        given = np.array(num_tokens, np.int32)
        lists = {"input_ids": pa.array(ids, pa.list_(pa.int32()))}
        length = np.minimum(given, max_length)
        return pa.table({**lists, **_lengths(length, given, given > max_length)})

    def words(self, max_length: int) -> str:
        """Return a description of what is read."""
        return f"{max_length} tokens: {self.head:.0%} from the beginning, the rest from the end"


class Windows(LongTextSpec):
    """The text is read in windows of `max_length` tokens, and their logits are pooled.

    The loss is computed on the pooled logits, so that training matches scoring.

    Attributes:
        stride: Tokens that consecutive windows share, as in tokenizers.
        pool: `mean`, or `max`: one window is enough for a label.
        most: Maximum number of windows per text.
    """

    kind: Literal["windows"] = "windows"
    stride: int = Field(0, ge=0)
    pool: Literal["mean", "max"] = "mean"
    most: int = Field(16, ge=1, le=4096)

    def num_read(self, max_length: int) -> int:
        """Return the tokens of all windows."""
        return self.most * max_length

    def problems(self, max_length: int) -> list[Problem]:
        """Reject a stride of more than half a window."""
        allowed = f"must be at most half of max_length ({max_length})"
        is_wide = self.stride > max_length // 2
        return [Problem("stride", self.stride, allowed)] if is_wide else []

    def num_whole(self, max_length: int, num_special: int = 2) -> int:
        """Return the length in tokens of the longest text that is read whole."""
        content = max_length - num_special
        step = max(1, content - self.stride)
        return num_special + content + (self.most - 1) * step

    def encoded(
        self, texts: list[str], pairs: list[str] | None, tokenizer: Any, max_length: int
    ) -> pa.Table:
        """Tokenise texts whole, and cut them into windows."""
        import pyarrow as pa

        ids, lengths, num_tokens, is_cut = [], [], [], []
        special = num_special(tokenizer)
        for whole in whole_ids(texts, tokenizer):
            found = list(self._windows(whole, special, max_length))
            ids.append([i for window in found[: self.most] for i in window])
            lengths.append([len(window) for window in found[: self.most]])
            num_tokens.append(len(whole))
            is_cut.append(len(found) > self.most)
        columns = {"input_ids": ids, "windows": lengths}
        lists = {n: pa.array(rows, pa.list_(pa.int32())) for n, rows in columns.items()}
        length = np.array([len(row) for row in ids], np.int32)
        return pa.table({**lists, **_lengths(length, np.array(num_tokens), np.array(is_cut))})

    def _windows(self, ids: Ids, special: tuple[int, int], max_length: int) -> Iterator[Ids]:
        """Yield a text's windows with special tokens, at most one more than are read."""
        before, after = special
        content = ids[before : len(ids) - after]
        size = max_length - before - after
        step = max(1, size - self.stride)
        for start in range(0, max(1, len(content) - self.stride), step):
            if start // step > self.most:
                return
            yield ids[:before] + content[start : start + size] + ids[len(ids) - after :]

    def pooled(self, logits: Array, counts: Array | None) -> Array:
        """Return (rows, labels) logits: the mean or the maximum over a row's windows."""
        if counts is None or not len(counts):
            return logits
        starts = np.cumsum(counts) - counts
        if self.pool == "max":
            return np.asarray(np.maximum.reduceat(logits, starts, axis=0))
        sums = np.add.reduceat(logits, starts, axis=0)
        return np.asarray(sums / counts[:, None].astype(logits.dtype))

    def pooled_tensor(self, logits: torch.Tensor, counts: list[int] | None) -> torch.Tensor:
        """Return (rows, labels) logits as `pooled` does, but differentiable."""
        import torch

        parts = logits.split(1 if counts is None else counts)  # type: ignore[no-untyped-call]
        return torch.stack([p.amax(0) if self.pool == "max" else p.mean(0) for p in parts])

    def words(self, max_length: int) -> str:
        """Return a description of what is read."""
        shared = f", {self.stride} shared" if self.stride else ""
        return f"up to {self.most} windows of {max_length} tokens{shared}, {self.pool} of logits"


LongText = Annotated[KeepHead | KeepHeadTail | Windows, Field(discriminator="kind"), BareKind()]


def _lengths(length: Any, num_tokens: Any, is_cut: Any) -> dict[str, pa.Array]:
    import pyarrow as pa

    return {
        "length": pa.array(length, pa.int32()),
        "num_tokens": pa.array(num_tokens, pa.int32()),
        "is_truncated": pa.array(is_cut, pa.bool_()),
    }


def num_special(tokenizer: Any) -> tuple[int, int]:
    """Return the number of special tokens before and after a text."""
    before, _, after = single_types(tokenizer)
    return len(before), len(after)


def single_types(tokenizer: Any) -> tuple[Ids, int, Ids]:
    """Return the token types of a single text: of the special tokens before it, of its own
    tokens, and of the special tokens after it; all 0 if the model takes none.

    Most are 0, which models assume by default; XLNet and Funnel have a type for `[CLS]`.
    """
    found = tokenizer("a", return_special_tokens_mask=True)
    mask = list(found["special_tokens_mask"])
    types = list(found.get("token_type_ids", [0] * len(mask)))
    before = mask.index(0) if 0 in mask else len(mask)
    after = mask[::-1].index(0) if 0 in mask else 0
    own = types[before] if 0 in mask else 0
    return types[:before], own, types[len(mask) - after :]


# ASCII without tabs and line ends, which are blanks: BertNormalizer removes them.
_PLAIN = "_clftask_plain_backend"  # in the attributes of a tokenizer
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _head_ids(
    texts: list[str], pairs: list[str] | None, tokenizer: Any, max_length: int
) -> tuple[dict[str, list[Ids]], Any]:
    """Return input_ids and, for pairs, token_type_ids, cut to `max_length`; and the encodings of
    the tokenizers library, if it made them.
    """
    has_types = pairs is not None and "token_type_ids" in tokenizer.model_input_names
    encodings = _encodings(texts, pairs, tokenizer, max_length)
    if encodings is not None:
        columns = {"input_ids": [e.ids for e in encodings]}
        types = {"token_type_ids": [e.type_ids for e in encodings]} if has_types else {}
        return columns | types, encodings
    found = tokenizer(
        texts, pairs, truncation=True, max_length=max_length, return_attention_mask=False
    )
    names = ["input_ids", *(["token_type_ids"] if has_types and "token_type_ids" in found else [])]
    return {name: found[name] for name in names}, found.encodings


def _encodings(
    texts: list[str], pairs: list[str] | None, tokenizer: Any, max_length: int | None
) -> list[Any] | None:
    """Return what the tokenizers library makes of texts, or None if the tokenizer does more.

    A call of a transformers tokenizer asks for offsets and copies each text's values into lists
    that nobody reads: a sixth of the time, and most of it with the GIL held.
    """
    from transformers.tokenization_utils_base import TruncationStrategy
    from transformers.tokenization_utils_tokenizers import TokenizersBackend
    from transformers.utils.generic import PaddingStrategy

    own = getattr(type(tokenizer), "_encode_plus", None)  # Luke and LayoutLM have their own
    if own is not getattr(TokenizersBackend, "_encode_plus", tokenizer):
        return None
    cut = TruncationStrategy.LONGEST_FIRST if max_length else TruncationStrategy.DO_NOT_TRUNCATE
    whole = PaddingStrategy.DO_NOT_PAD
    tokenizer.set_truncation_and_padding(whole, cut, max_length, 0, None, None)
    backend = tokenizer.backend_tokenizer
    if backend.encode_special_tokens != tokenizer.split_special_tokens:
        backend.encode_special_tokens = tokenizer.split_special_tokens
    if pairs is None and _only_lowers_ascii(backend):
        return _by_alphabet(texts, backend, _without_normalizer(tokenizer, backend))
    inputs = texts if pairs is None else list(zip(texts, pairs, strict=True))
    return list(backend.encode_batch_fast(inputs))


def _only_lowers_ascii(backend: Any) -> bool:
    """Tell whether all that normalisation does to ASCII texts is lowercasing and removing controls.

    Added tokens are looked for before it, in the text as it is written.
    """
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normalizer = backend.normalizer
    are_special = all(t.special for t in backend.get_added_tokens_decoder().values())
    return (
        isinstance(normalizer, BertNormalizer)
        and normalizer.lowercase
        and isinstance(backend.pre_tokenizer, BertPreTokenizer)
        and backend.encode_special_tokens
        and are_special
    )


def _without_normalizer(tokenizer: Any, backend: Any) -> Any:
    """Return a copy of a tokenizer's backend that does not normalise; the tokenizer keeps it.

    Other threads may use the tokenizer: its own backend stays as it is.
    """
    found = tokenizer.__dict__.get(_PLAIN)
    if found is None or found.get_vocab_size() != backend.get_vocab_size():
        found = copy.deepcopy(backend)
        found.normalizer = None
        tokenizer.__dict__[_PLAIN] = found
    found.encode_special_tokens = backend.encode_special_tokens
    if backend.truncation is None:
        found.no_truncation()
    else:
        found.enable_truncation(**backend.truncation)
    return found


def _by_alphabet(texts: list[str], backend: Any, plain_backend: Any) -> list[Any]:
    """Encode ASCII texts without the normalizer, which takes 40 % of the time, and the others."""
    is_plain = [text.isascii() and not _CONTROLS.search(text) for text in texts]
    found: list[Any] = [None] * len(texts)
    for plain in (True, False):
        rows = [i for i, known in enumerate(is_plain) if known is plain]
        some = [texts[i].lower() if plain else texts[i] for i in rows]
        encodings = (plain_backend if plain else backend).encode_batch_fast(some)
        for i, encoding in zip(rows, encodings, strict=True):
            found[i] = encoding
    return found


def whole_ids(texts: list[str], tokenizer: Any, pairs: list[str] | None = None) -> Iterator[Ids]:
    """Yield the tokens of each text without truncation, including special tokens."""
    start = size = 0
    for end, text in enumerate(texts, 1):
        size += len(text)
        if size >= MAX_CHARS or end == len(texts):
            second = None if pairs is None else pairs[start:end]
            encodings = _encodings(texts[start:end], second, tokenizer, None)
            if encodings is not None:
                yield from (encoding.ids for encoding in encodings)
            else:
                # verbose=False: transformers warns of texts longer than the model's limit.
                found = tokenizer(
                    texts[start:end], second, return_attention_mask=False, verbose=False
                )
                yield from found["input_ids"]
            start, size = end, 0
