"""The scorer: predicts probabilities and labels with a bundle's transformer. No Ray."""

from __future__ import annotations

import logging
import time
from collections import deque
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from clftask.array_types import Float32
from clftask.components.truncation import num_special
from clftask.data.batching import FlatTokens, token_batches
from clftask.data.token_processes import TokenProcesses
from clftask.data.tokenization import distinct, full_lengths, sequences, tokenise
from clftask.errors import ConfigError, JobError, ModelError, Problem
from clftask.io.tempdirs import temporary_folder
from clftask.logs import errors_logged
from clftask.messages import counted, first_line
from clftask.models import bundle
from clftask.models.bundle_meta import BundleMeta
from clftask.models.compiling import compile_layers, uncompile
from clftask.models.linear_scorer import check_linear, open_linear
from clftask.models.loading import output_layer, quiet_loading
from clftask.models.memory import is_device_failure, is_out_of_memory
from clftask.models.packing import Packing, can_pack, layout
from clftask.models.padding import depends_on_padding, least_width
from clftask.models.precision import bf16_pays, check_precision, resolve_precision
from clftask.models.prediction import Predictor
from clftask.models.token_budget import (
    MAX_TOKENS,
    MIN_GAIN,
    Measure,
    Measured,
    free_bytes,
    largest_useful,
    on_gpu,
)
from clftask.models.tokenizers import reading

TOKENISE_ROWS = 1_000
_log = logging.getLogger(__name__)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Scorer(Predictor):
    """A bundle's model on a device.

    Args:
        model: The bundle's model.
        tokenizer: The bundle's tokenizer.
        meta: The content of the bundle's `clftask.json`.
        device: The model's device: cpu, cuda, cuda:1 …
        precision: Precision of the weights: fp32, bf16 or fp16; the last layer stays fp32.
        max_tokens: Rows times padded length of one forward pass; None: a constant on CPUs,
            measured on a GPU.
        path: The bundle's path, if it has one.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        meta: BundleMeta,
        device: str = "cpu",
        precision: str = "fp32",
        max_tokens: int | None = None,
        path: str = "",
    ) -> None:
        self.path = path
        self.processes: TokenProcesses | None = None
        self.tokenizer, self.meta, self.device = tokenizer, meta, torch.device(device)
        self.tokenising = Lock()  # a call sets the tokenizer's truncation, then tokenises
        self.precision = precision
        self.max_tokens = max_tokens or MAX_TOKENS.get(self.device.type, MAX_TOKENS["cpu"])
        self.is_measurable = self.device.type == "cuda" and max_tokens is None
        self.is_measured = False
        self.too_many: int | None = None  # tokens that ran out of memory
        self.model = model.eval().to(self.device)
        self.needs_equal_lengths = depends_on_padding(self._exact, tokenizer, meta.max_length)
        self.may_pack = (
            self.is_measurable
            and precision != "fp32"  # torch's kernel is for half precision
            and not self.needs_equal_lengths
            and can_pack(self.model, tokenizer, meta.max_length)
        )
        self.packing: Packing | None = None
        # Buffers stay fp32: rotary frequencies lose too much precision in bf16.
        for weights in self.model.parameters():
            weights.data = weights.data.to(DTYPES[precision])
        _use_fp32(output_layer(self.model))
        self.compiled: list[torch.nn.Module] = []
        self._forward: Any = self.model

    @torch.inference_mode()
    def _exact(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits of the model before its weights are rounded."""
        moved = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        return torch.as_tensor(self.model(**moved).logits)

    @property
    def reading(self) -> str | None:
        """See `Predictor`."""
        return reading(self.tokenizer, self.meta.max_length, self.meta.truncation)

    def about(self) -> str:
        """Return where the model comes from."""
        return f"fine-tuned from {self.meta.job['model']['base']}"

    # ------------------------------------------------------------------ tokens

    def tokenise(self, texts: Any, pairs: Any | None) -> pa.Table:
        """Return the tokens of (rows,) Arrow strings; see `tokenization.tokenise`.

        Equal texts are tokenised once. They have the same number in the column `group`, by which
        `logits` computes them once.
        """
        if not len(texts):
            return self._tokenise(pa.array([""]), None).slice(1)
        first, group = distinct(texts, pairs)
        if len(first) == len(group):
            return self._in_chunks(texts, pairs)
        some = pa.array(first)
        pair = None if pairs is None else pairs.take(some)
        tokens = self._in_chunks(texts.take(some), pair).take(pa.array(group)).combine_chunks()
        return tokens.append_column("group", pa.array(group))

    def _in_chunks(self, texts: Any, pairs: Any | None) -> pa.Table:
        starts = range(0, len(texts), TOKENISE_ROWS)
        chunks = ((_chunk(texts, start), _chunk(pairs, start)) for start in starts)
        if self.processes is None:
            parts = [self._tokenise(*chunk) for chunk in chunks]
        else:
            parts = list(self.processes.tokenise(chunks))
        return pa.concat_tables(parts).combine_chunks()

    def tokenise_in(self, processes: int) -> None:
        """See `Predictor`."""
        given = self.tokenizer, self.meta.max_length, self.meta.truncation
        self.processes = TokenProcesses(processes, *given) if processes else None

    def lengths(self, texts: Any, pairs: Any | None, tokens: pa.Table) -> Any:
        """Return the (rows,) numbers of tokens, including truncated ones."""
        return full_lengths(texts, pairs, tokens, self.tokenizer)

    @property
    def num_special(self) -> int:
        """The special tokens of one model input."""
        return sum(num_special(self.tokenizer))

    def _tokenise(self, texts: Any, pairs: Any | None) -> pa.Table:
        meta = self.meta
        with self.tokenising:
            return tokenise(texts, pairs, self.tokenizer, meta.max_length, meta.truncation)

    # ------------------------------------------------------------------ probabilities

    def logits(self, tokens: pa.Table) -> Float32:
        """Return (rows, labels) float32 logits, in the order of the rows.

        Rows of similar lengths share a batch, rows of equal length if the model's logits depend
        on padding. If a batch does not fit into memory, the remaining rows are split into batches
        of half its size. Windows of long texts are model inputs of their own, whose logits are
        pooled.

        Raises:
            ModelError: The model fails, or logits are NaN or infinite.
            JobError: A single row does not fit into memory.
        """
        place = None
        if "group" in tokens.column_names:
            _, first, place = np.unique(tokens["group"], return_index=True, return_inverse=True)
            tokens = tokens.take(pa.array(first))
        table, counts = sequences(tokens)
        found = self.meta.truncation.pooled(self._logits(table), counts)
        found = found if place is None else found[place]
        _refuse_non_finite(found, self.precision)
        return found

    def _logits(self, tokens: pa.Table) -> Float32:
        flat = FlatTokens(tokens, least_width(self.model), self._multiple)
        self._measure(flat)
        waiting = deque(self._batches(flat.lengths))
        done: list[npt.NDArray[np.int64]] = []
        parts = [torch.zeros(0, len(self.meta.label_names), device=self.device)]
        with torch.inference_mode():
            while waiting:
                rows = waiting.popleft()
                logits = self._try(flat.padded(rows, self.tokenizer))
                if logits is not None:
                    done.append(rows)
                    parts.append(logits)
                    continue
                self._shrink(flat.lengths[rows])
                left = np.concatenate([rows, *waiting])
                waiting = deque(left[batch] for batch in self._batches(flat.lengths[left]))
            ordered = torch.cat(parts).cpu().numpy()  # one copy: each makes a GPU wait
        found = np.empty_like(ordered)
        found[np.concatenate(done) if done else []] = ordered
        return found

    @property
    def _multiple(self) -> int:
        """Of which widths are multiples: on GPUs, new shapes and odd ones are slow."""
        may_pad = not self.needs_equal_lengths and self.meta.max_length % 8 == 0
        return 8 if self.device.type == "cuda" and may_pad else 1

    def _batches(self, lengths: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        return token_batches(lengths, self.max_tokens, equal=self.needs_equal_lengths)

    def _try(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """Return a batch's logits in fp32, or None if it ran out of memory.

        Raises:
            ModelError: The model fails.
        """
        try:
            return self._computed(inputs)
        except Exception as error:  # models raise all classes
            if not is_out_of_memory(error):
                if is_device_failure(error):
                    raise
                if self.packing is not None:
                    self._stop_packing(error)
                    return self._try(inputs)
                if not self.is_compiled:
                    raise _model_error(error, self.device.type, self.precision) from error
                self._stop_compiling(error)
                return self._try(inputs)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _computed(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return a batch's logits in fp32."""
        forward = self._forward
        if self.packing is not None:
            forward = self.packing.forward
            inputs = {**inputs, **layout(inputs["attention_mask"])}
        return torch.as_tensor(forward(**self._moved(inputs)).logits).float()

    # ------------------------------------------------------------------ what a GPU does best

    def _measure(self, flat: FlatTokens) -> None:
        """On a GPU, measure once how large batches should be, and whether packing pays."""
        if self.is_measured or not self.is_measurable or flat.lengths.sum() <= self.max_tokens:
            return
        self.is_measured = True
        with errors_logged("the token budget cannot be measured"), torch.inference_mode():
            measure = on_gpu(self._computed, flat, self.tokenizer, self.device)
            best = largest_useful(measure, free_bytes(self.device), self.too_many)
            if best is None:
                return
            self.max_tokens = best.tokens
            if self.may_pack:
                self._pack_if_faster(measure, best)
        packed = "" if self.packing is None else "packed "
        _log.info("%sbatches of up to %d tokens, as measured", packed, self.max_tokens)

    def _pack_if_faster(self, measure: Measure, padded: Measured) -> None:
        self.packing = Packing(self.model, self.meta.max_length)
        try:
            packed = measure(padded.tokens)
        except Exception as error:  # a kernel may lack this model's sizes
            self._stop_packing(error)
            return
        if packed is None or padded.seconds < MIN_GAIN * packed.seconds:
            self.packing.stop()
            self.packing = None

    def _stop_packing(self, error: Exception) -> None:
        """Pad batches after any failure."""
        if self.packing is not None:
            self.packing.stop()
        self.packing, self.may_pack = None, False
        _log.warning("batches are padded instead of packed: %s", first_line(error))

    def _moved(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.device.type != "cuda":
            return inputs
        # A copy from pinned memory does not wait for the batches before it.
        return {n: t.pin_memory().to(self.device, non_blocking=True) for n, t in inputs.items()}

    def _shrink(self, lengths: npt.NDArray[np.int64]) -> None:
        """Limit all further batches to half the size of a batch that did not fit."""
        if len(lengths) == 1:
            allowed = f"ran out of memory for one text of up to {self.meta.max_length} tokens"
            raise JobError(Problem(str(self.device), None, allowed, "Use a larger machine."))
        too_many = len(lengths) * int(lengths.max())
        self.too_many, self.max_tokens = too_many, too_many // 2

    @property
    def is_compiled(self) -> bool:
        """Whether the model's layers are compiled."""
        return bool(self.compiled)

    def compile(self, sample: pa.Table) -> bool:
        """Compile the model's layers; return whether it succeeded. Takes about a minute.

        After an error, then or later, the model runs as it is.

        Args:
            sample: Tokens for the first call.
        """
        if self.packing is not None:
            self.packing.stop()
        self.packing, self.may_pack = None, False
        self.compiled = compile_layers(self.model)
        began = time.perf_counter()
        self.logits(sample)
        self.is_measured = False  # compiled layers may prefer other batches
        if self.is_compiled:
            _log.info("the model was compiled in %.0f s", time.perf_counter() - began)
        return self.is_compiled

    def _stop_compiling(self, error: Exception) -> None:
        """Run the model as it is: no C++ compiler, an unsupported operation, …"""
        uncompile(self.compiled)
        self.compiled = []
        _log.warning("the model runs without torch.compile: %s", first_line(error))


def _chunk(column: Any, start: int) -> Any:
    """Return some rows: tokenizers keeps the truncated tokens of a whole call in memory."""
    return None if column is None else column[start : start + TOKENISE_ROWS]


def load(path: str, device: str | None = None, precision: str = "fp32") -> Predictor:
    """Open a bundle; see `clftask.load`."""
    given, device = device, device or default_device()
    precision = "fp32" if precision == "auto" else precision  # no timing decides
    if precision not in DTYPES:
        remedy = "Use fp32, whose probabilities are those of plain transformers."
        raise ConfigError(Problem("precision", precision, "must be fp32, bf16 or fp16", remedy))
    with temporary_folder() as scratch, quiet_loading():
        folder, meta = bundle.fetch(path, scratch)
        check_linear(meta, precision, {"device": given})
        check_precision(precision, torch.device(device).type == "cuda", "precision")
        return open_scorer(folder, meta, device, precision, path)


def open_scorer(
    folder: str,
    meta: BundleMeta,
    device: str,
    precision: str = "fp32",
    path: str = "",
) -> Predictor:
    """Open the model of a bundle's local folder; see `Scorer`. A linear model is on the CPU.

    Raises:
        DataError: It cannot be opened, or does not match `meta`.
    """
    if meta.is_linear:
        return open_linear(folder, meta, path)
    model, tokenizer = bundle.open_folded(folder, meta)
    return Scorer(model, tokenizer, meta, device, precision, path=path)


def default_device() -> str:
    """Return cuda if a GPU is available, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision_for(wanted: str, device: str) -> str:
    """Return fp32, bf16 or fp16; resolves `auto` for a device such as cuda:1."""
    kind = torch.device(device).type
    return resolve_precision(wanted, kind, wanted == "auto" and bf16_pays(kind))


def _model_error(error: Exception, device: str, precision: str) -> ModelError:
    allowed = f"its model fails on {device} in {precision}: {first_line(error)}"
    remedy = "" if precision == "fp32" else "Use precision fp32."
    return ModelError(Problem("bundle", None, allowed, remedy))


def _refuse_non_finite(logits: Float32, precision: str) -> None:
    bad = np.flatnonzero(~np.isfinite(logits).all(1))
    if len(bad):
        allowed = f"gives NaN or infinite logits for {counted(len(bad), 'row')}, first row {bad[0]}"
        remedy = "Retrain with a lower learning rate."
        if precision != "fp32":
            remedy = (
                "Use precision fp32; if that does not help, retrain with a lower learning rate."
            )
        raise ModelError(Problem("bundle", None, allowed, remedy))


def _use_fp32(layer: torch.nn.Module) -> None:
    """Compute the logits in fp32: rounding them to bf16 changes probabilities by percents."""
    layer.float()
    layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
