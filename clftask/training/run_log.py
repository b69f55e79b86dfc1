"""The log of a run, in its folder."""

from __future__ import annotations

import logging
import time
from typing import Any

from clftask.io import storage
from clftask.io.strict_json import to_json
from clftask.logs import errors_logged
from clftask.training import run_dir

_log = logging.getLogger(__name__)


class RunLog:
    """`metrics.jsonl` and `log.txt`, kept in memory: object stores cannot append to a file."""

    def __init__(self, run: str, preamble: str) -> None:
        self.run, self.text = run, preamble
        self.records: list[dict[str, Any]] = []

    def load(self) -> None:
        """Load the files of an earlier attempt: `write` replaces both."""
        log = storage.join(self.run, "log.txt")
        if storage.exists(log):
            self.text = storage.read_bytes(log).decode(errors="replace")
        self.records = run_dir.records(self.run)

    def drop_after(self, step: int) -> None:
        """Drop the records after a step: these steps are trained again."""
        self.records = [record for record in self.records if record["step"] <= step]

    def add_line(self, line: str) -> None:
        """Add a line to `log.txt`, and log it."""
        _log.info("%s", line)
        self.text += f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n"

    def write(self) -> None:
        """Write both files."""
        self._write_metrics()
        self._write_text()

    def close(self, line: str) -> None:
        """Add the last line and write both files; the outcome of a run does not depend on them."""
        self.add_line(line)
        for write in (self._write_metrics, self._write_text):
            with errors_logged("the run's log is incomplete"):
                write()

    def _write_metrics(self) -> None:
        lines = "".join(to_json(r) + "\n" for r in self.records)
        storage.put(storage.join(self.run, "metrics.jsonl"), lines.encode())

    def _write_text(self) -> None:
        storage.put(storage.join(self.run, "log.txt"), self.text.encode())
