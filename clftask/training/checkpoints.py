"""Checkpoints in a run's storage: uploaded asynchronously, complete or ignored.

Each lies in `step-<number>/` and counts only once its `complete.json` is there, which is
written last. The newest complete one is where a run resumes, whatever was killed: no
controller's memory is needed to find it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from clftask.errors import Problem, StorageError
from clftask.io import filesystems, listing, storage

_MARKER = "complete.json"
_AGAIN = "Delete the checkpoint: training resumes from the previous one."


class Checkpoints:
    """The checkpoints below one folder or prefix; one process writes, any may read.

    Args:
        path: The folder or prefix.
        keep: How many are kept, the best among them.
        scratch: A local folder of the caller's, who removes it: what is fetched goes there.
    """

    def __init__(self, path: str, keep: int, scratch: str) -> None:
        self.path, self.keep, self.scratch = path, keep, scratch
        self._best: int | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._upload: Future[None] | None = None

    def steps(self) -> dict[int, bool]:
        """Return each checkpoint's step, and whether it is complete."""
        found: dict[int, bool] = {}
        for file in listing.list_files(self.path):
            match = re.match(r"step-(\d+)/(.*)", file.path[len(self.path) + 1 :])
            if match:
                step = int(match[1])
                found[step] = found.get(step, False) or match[2] == _MARKER
        return found

    def latest(self) -> int | None:
        """Return the step of the newest complete checkpoint, None if there is none."""
        return max((step for step, complete in self.steps().items() if complete), default=None)

    def precision(self) -> str | None:
        """Return what the newest complete checkpoint was trained in, None if that is not known."""
        step = self.latest()
        if step is None:
            return None
        marker = storage.read_json(storage.join(self._place(step), _MARKER), _AGAIN)
        precision = marker.get("precision")  # version 0.1.0 wrote none
        return precision if isinstance(precision, str) else None

    def fetch(self, step: int, name: str | None = None) -> str:
        """Return a local folder with a whole checkpoint, or with its file `name` at least."""
        place = self._place(step)
        if not filesystems.is_url(place):
            return place
        folder = Path(self.scratch, "fetched", place.rpartition("/")[2])
        if name is None:
            storage.download(place, str(folder))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(storage.read_bytes(storage.join(place, name)))
        return str(folder)

    def save(
        self, folder: str, step: int, best: int | None, precision: str, before: Callable[[], None]
    ) -> None:
        """Upload a local checkpoint in the background and remove it here.

        Args:
            folder: The local checkpoint.
            step: Its step.
            best: The step of the best checkpoint, which is always kept.
            precision: What it was trained in; a resumed run uses the same.
            before: Called in the same thread when all is uploaded and the checkpoint does not
                count yet: writes what a resumed run needs.
        """
        self.wait()
        marker = json.dumps({"step": step, "precision": precision}).encode()
        files = _sizes(folder)
        self._upload = self._pool.submit(self._save, folder, files, step, best, marker, before)

    def wait(self) -> None:
        """Wait for the upload under way.

        Raises:
            StorageError: The upload failed.
        """
        if self._upload is not None:
            self._upload.result()
            self._upload = None

    def clean(self, best: int | None = None) -> None:
        """Remove what a killed run left half uploaded, and what is no longer kept."""
        self._best = best
        self._prune({best, self.latest()})

    def _save(
        self,
        folder: str,
        files: dict[str, int],
        step: int,
        best: int | None,
        marker: bytes,
        before: Callable[[], None],
    ) -> None:
        self._prune({self._best if best == step else best})  # the best that is there already
        storage.upload(folder, self._place(step))
        self._check_whole(step, files)
        before()
        storage.put(storage.join(self._place(step), _MARKER), marker)
        shutil.rmtree(folder)
        self._prune({best, step})
        self._best = best

    def _check_whole(self, step: int, files: dict[str, int]) -> None:
        """Refuse to count what has lost files: the local ones, or to another who trains this run.

        Raises:
            StorageError: It lacks some of `files`, names and sizes.
        """
        place = self._place(step)
        found = {f.path[len(place) + 1 :]: f.size for f in listing.list_files(place)}
        if not files or not files.items() <= found.items():
            remedy = "Let one job at a time train a run."
            raise StorageError(Problem(place, None, "upload is incomplete", remedy))

    def _prune(self, always: set[int | None]) -> None:
        """Keep what is `always` kept, and the newest others, `keep` in all and one at least."""
        steps = self.steps()
        complete = sorted((s for s, done in steps.items() if done), reverse=True)
        kept = always & set(complete)
        for step in complete:
            if len(kept) < self.keep:
                kept.add(step)
        for step in steps.keys() - kept:
            storage.delete(storage.join(self._place(step), _MARKER))
            storage.delete(self._place(step))

    def _place(self, step: int) -> str:
        return storage.join(self.path, f"step-{step:07d}")


def _sizes(folder: str) -> dict[str, int]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def read_state(folder: str) -> dict[str, object]:
    """Return the trainer's state of a local checkpoint."""
    return storage.read_json(str(Path(folder, "trainer_state.json")), _AGAIN)
