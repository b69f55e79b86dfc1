"""Checkpoints in a run's storage: uploaded asynchronously, complete or ignored.

Each is a folder `step-<number>/` and is valid only with its `complete.json`, which is written
last. A run resumes from the newest complete checkpoint. Ray Train does not need to know of it:
after a worker's death, its `get_checkpoint()` may lack the last report.
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
    """The checkpoints in one folder or prefix; one process writes, several may read.

    Args:
        path: The folder or prefix.
        keep: The number of checkpoints to keep, the best among them; one at least is kept, from
            which training resumes. `run_dir.tidy` removes it if the finished run keeps none.
        scratch: A local folder for downloads; the caller removes it.
    """

    def __init__(self, path: str, keep: int, scratch: str) -> None:
        self.path, self.keep, self.scratch = path, keep, scratch
        self._best: int | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._upload: Future[None] | None = None

    def steps(self) -> dict[int, bool]:
        """Return the step of each checkpoint, and whether it is complete."""
        found: dict[int, bool] = {}
        for file in listing.list_files(self.path):
            match = re.match(r"step-(\d+)/(.*)", file.path[len(self.path) + 1 :])
            if match:
                step = int(match[1])
                found[step] = found.get(step, False) or match[2] == _MARKER
        return found

    def latest(self) -> int | None:
        """Return the step of the newest complete checkpoint; None if there is none."""
        return max((step for step, complete in self.steps().items() if complete), default=None)

    def precision(self) -> str | None:
        """Return the training precision of the newest complete checkpoint; None if unknown."""
        step = self.latest()
        if step is None:
            return None
        marker = storage.read_json(storage.join(self._place(step), _MARKER), _AGAIN)
        precision = marker.get("precision")  # version 0.1.0 wrote none
        return precision if isinstance(precision, str) else None

    def fetch(self, step: int, name: str | None = None) -> str:
        """Return a local folder with a checkpoint, or at least with its file `name`."""
        place = self._place(step)
        if not filesystems.is_url(place):
            return place
        folder = Path(self.scratch, "fetched", place.rpartition("/")[2])
        if name is None:
            storage.download(place, str(folder))
        else:
            storage.fetch(storage.join(place, name), folder / name)
        return str(folder)

    def save(
        self, folder: str, step: int, best: int | None, precision: str, before: Callable[[], None]
    ) -> None:
        """Upload a local checkpoint asynchronously, then remove the local folder.

        Args:
            folder: The local checkpoint.
            step: Its step.
            best: The step of the best checkpoint, which is always kept.
            precision: The training precision; a resumed run uses the same.
            before: Called in the upload thread before the checkpoint is marked as complete;
                writes the files that a resumed run needs.
        """
        self.wait()
        marker = json.dumps({"step": step, "precision": precision}).encode()
        files = _sizes(folder)
        self._upload = self._pool.submit(self._save, folder, files, step, best, marker, before)

    def is_uploading(self) -> bool:
        """Tell whether an upload is running."""
        return self._upload is not None and not self._upload.done()

    def wait(self) -> None:
        """Wait for the current upload.

        Raises:
            StorageError: The upload failed.
        """
        upload, self._upload = self._upload, None
        if upload is not None:
            upload.result()

    def clean(self, best: int | None = None) -> None:
        """Remove incomplete checkpoints of a killed run, and those beyond `keep`."""
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
        self._prune({self._best if best == step else best})  # the best one already uploaded
        storage.upload(folder, self._place(step))
        self._check_whole(step, files)
        before()
        storage.put(storage.join(self._place(step), _MARKER), marker)
        shutil.rmtree(folder, ignore_errors=True)
        self._prune({best, step})
        self._best = best

    def _check_whole(self, step: int, files: dict[str, int]) -> None:
        """Check an upload: local files may vanish, or another job may prune this run.

        Raises:
            StorageError: Some of `files` (sizes by name) are missing in storage.
        """
        place = self._place(step)
        found = {f.path[len(place) + 1 :]: f.size for f in listing.list_files(place)}
        if not files or not files.items() <= found.items():
            remedy = "Run only one job at a time in a run folder."
            raise StorageError(Problem(place, None, "upload is incomplete", remedy))

    def _prune(self, always: set[int | None]) -> None:
        """Keep the steps in `always` and the newest others: `keep` in total, at least one."""
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
    """Return the TrainerState of a local checkpoint."""
    return storage.read_json(str(Path(folder, "trainer_state.json")), _AGAIN)
