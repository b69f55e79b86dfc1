"""Tokenising in processes of its own: where a thread tokenises, a GPU waits for the GIL."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from threading import Thread
from typing import Any

import pyarrow as pa

from clftask.components.truncation import LongTextSpec
from clftask.data.tokenization import tokenise

_opened: tuple[Any, int, LongTextSpec]  # of a process of the pool


class TokenProcesses:
    """Tokenises with one thread in each of some processes, which start when they are needed.

    Texts and tokens travel as Arrow IPC. The processes end with the one that owns them, also if
    it is killed.

    Args:
        count: The number of processes.
        tokenizer: A transformers tokenizer.
        max_length: As for `tokenise`.
        long_text: As for `tokenise`.
    """

    def __init__(
        self, count: int, tokenizer: Any, max_length: int, long_text: LongTextSpec
    ) -> None:
        # A fork would copy a process that has threads and a GPU.
        context = multiprocessing.get_context("spawn")
        known = (tokenizer, max_length, long_text)
        self.pool = ProcessPoolExecutor(count, context, _open, known)

    def tokenise(self, chunks: Iterable[tuple[Any, Any | None]]) -> Iterator[pa.Table]:
        """Yield the tokens of chunks of texts (and second texts) in order."""
        yield from map(_unpacked, self.pool.map(_tokenised, map(_packed, chunks)))


def _open(*known: Any) -> None:
    global _opened
    _opened = known
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    Thread(target=_end_with_owner, daemon=True).start()


def _end_with_owner() -> None:
    owner = multiprocessing.parent_process()
    assert owner is not None
    wait([owner.sentinel])
    os._exit(1)


def _packed(chunk: tuple[Any, Any | None]) -> bytes:
    names = ("texts",) if chunk[1] is None else ("texts", "pairs")
    return _bytes(pa.table(dict(zip(names, chunk, strict=False))))


def _tokenised(data: bytes) -> bytes:
    columns = [column.combine_chunks() for column in _unpacked(data).columns]
    texts, pairs = columns if len(columns) == 2 else (columns[0], None)
    return _bytes(tokenise(texts, pairs, *_opened))


def _bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _unpacked(data: bytes) -> pa.Table:
    return pa.ipc.open_stream(data).read_all()
