"""Tokenising in processes gives the very tokens; the processes end with their owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from toy_scorers import MAX_LENGTH, PAIRS, TEXTS

from clftask.components.truncation import KeepHead, Windows
from clftask.data.token_processes import TokenProcesses
from clftask.data.tokenization import tokenise
from clftask.models.tokenizers import load_tokenizer

WAIT_S = 60.0
OWNER = """
import os, sys, time
from concurrent.futures import wait
import pyarrow as pa
from clftask.components.truncation import KeepHead
from clftask.data.token_processes import TokenProcesses
from clftask.models.tokenizers import load_tokenizer

if __name__ == "__main__":
    owner = TokenProcesses(1, load_tokenizer(sys.argv[1]), 8, KeepHead())
    assert next(owner.tokenise([(pa.array(["a tool"]), None)])).num_rows == 1
    print(owner.pool.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("policy", [KeepHead(), Windows()], ids=["head", "windows"])
def test_the_tokens_are_those_of_one_process(tiny_base, policy):
    tokenizer = load_tokenizer(str(tiny_base))
    first, second = (pa.array(column, pa.large_string()) for column in zip(*PAIRS, strict=True))
    processes = TokenProcesses(2, tokenizer, MAX_LENGTH, policy)
    chunks = [(first[:5], None), (first[5:], None)]
    chunks += [] if policy.kind == "windows" else [(first, second)]
    found = list(processes.tokenise(chunks))
    processes.pool.shutdown()
    wanted = [tokenise(*chunk, tokenizer, MAX_LENGTH, policy) for chunk in chunks]
    assert [a.equals(b) for a, b in zip(found, wanted, strict=True)] == [True] * len(chunks)
    assert found[0]["length"].to_pylist()[0] == 3
    assert len(first) == len(TEXTS)


def test_processes_end_with_an_owner_that_is_killed(tiny_base, tmp_path: Path):
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    command = [sys.executable, str(script), str(tiny_base)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    deadline = time.monotonic() + WAIT_S
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
