"""Reads and writes the files of a score table."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clftask.components.score_table import DELTA_LOG, MANIFEST, PLANS, plan_name
from clftask.errors import ConfigError, DataError, Problem
from clftask.io import listing, storage
from clftask.io.parallel import map_in_threads
from clftask.io.strict_json import to_json
from clftask.messages import counted
from clftask.scoring.manifest import SCHEMA_VERSION, Manifest, Receipt, ScorePlan
from clftask.spec import Spec

RECEIPTS, QUARANTINE = "_receipts", "_quarantine"
NUM_THREADS, MAX_HELD = 8, 256
_Stored = TypeVar("_Stored", bound=Spec)


class ScoreTableStore:
    """Reads and writes plan, receipts and manifest of the score table at `output`."""

    def __init__(self, output: str) -> None:
        self.output = output

    def part(self, index: int) -> str:
        """Return the path of a shard's part."""
        return storage.join(self.output, f"part-{index:05d}.parquet")

    def quarantine(self, index: int) -> str:
        """Return the path of a shard's quarantined rows."""
        return storage.join(self.output, QUARANTINE, f"part-{index:05d}.jsonl")

    def receipt(self, index: int) -> str:
        """Return the path of a shard's receipt."""
        return storage.join(self.output, RECEIPTS, f"part-{index:05d}.json")

    def forget(
        self,
        receipts: Collection[int] = (),
        quarantines: Collection[int] = (),
        keep_manifest: bool = False,
    ) -> None:
        """Delete the manifest, and receipts and quarantined rows of shards to score again."""
        if not keep_manifest:
            storage.delete(storage.join(self.output, MANIFEST))
        for place in [*map(self.receipt, receipts), *map(self.quarantine, quarantines)]:
            storage.delete(place)

    def plan(self, generation: int = 1) -> ScorePlan | None:
        """Read the plan of a generation, or return None if there is none."""
        return self._read(storage.join(self.output, plan_name(generation)), ScorePlan)

    def plans(self) -> list[ScorePlan]:
        """Read the plans of all generations; empty if there is no table.

        Raises:
            DataError: A plan is damaged or missing, or the shards of two plans overlap.
        """
        if (first := self.plan()) is None:
            return []
        files = listing.list_files(self.output, recursive=False)
        count = sum(bool(PLANS.fullmatch(f.path.rpartition("/")[2])) for f in files)
        found = [first, *map_in_threads(self.plan, range(2, count + 1))]
        highest = -1
        for number, plan in enumerate(found, start=1):
            shards = [] if plan is None else [shard.index for shard in plan.shards]
            if plan is None or plan.generation != number or min(shards, default=0) <= highest:
                path = storage.join(self.output, plan_name(number))
                allowed = "is missing" if plan is None else "is damaged"
                raise DataError(Problem(path, None, allowed, _remedy(path)))
            highest = max(shards, default=highest)
        return [plan for plan in found if plan is not None]

    def generations(self) -> tuple[list[ScorePlan], Manifest | None]:
        """Read the plans of all generations, and the manifest of those that are complete.

        Raises:
            DataError: One of them is damaged, or a plan is missing.
        """
        plans, manifest = self.plans(), None
        if plans and (manifest := self.manifest()) is not None:
            if manifest.num_generations > len(plans):  # another run has just completed it
                plans = self.plans()
            if manifest.num_generations > len(plans):
                path = storage.join(self.output, MANIFEST)
                allowed = f"counts more generations than the {counted(len(plans), 'plan')}"
                raise DataError(Problem(path, manifest.num_generations, allowed, _remedy(path)))
        return plans, manifest

    def manifest(self) -> Manifest | None:
        """Read the manifest, or return None if no generation is complete."""
        return self._read(storage.join(self.output, MANIFEST), Manifest)

    def write_plan(self, plan: ScorePlan) -> bool:
        """Write the plan of a generation; return False if another run was first."""
        return storage.put_if_absent(self._place_of(plan), _encode(plan))

    def replace_plan(self, plan: ScorePlan) -> None:
        """Overwrite the plan of a generation."""
        storage.put(self._place_of(plan), _encode(plan))

    def write_receipt(self, receipt: Receipt) -> None:
        """Write a receipt; overwriting is safe, because receipts of one part are equal."""
        storage.put(self.receipt(receipt.shard), _encode(receipt))

    def write_manifest(self, manifest: Manifest) -> None:
        """Write the manifest, which marks its generations as complete.

        No store that clftask supports replaces a file only if it has a given content. So a run
        that stood still after its last look may replace the manifest of a later generation. No
        row is lost or doubled: that generation counts as incomplete until the job runs again,
        which finds all of its parts.
        """
        place, data = storage.join(self.output, MANIFEST), _encode(manifest)
        if manifest.num_generations > 1:
            storage.put(place, data)
        else:  # if there is one, another run was first
            storage.put_if_absent(place, data)

    def is_taken(self) -> bool:
        """Tell whether the output already contains parts, receipts, a manifest or a Delta log."""
        files = listing.list_files(self.output, recursive=False)
        names = [f.path.rpartition("/")[2] for f in files]
        has_parts = any(n.startswith("part-") and n.endswith(".parquet") for n in names)
        folders = [storage.join(self.output, name) for name in (RECEIPTS, QUARANTINE, DELTA_LOG)]
        return has_parts or MANIFEST in names or any(listing.list_files(f) for f in folders)

    def stored_parts(self) -> set[int]:
        """Return the numbers of the stored parts."""
        return _numbers(listing.list_files(self.output, recursive=False), "parquet")

    def stored_quarantines(self) -> set[int]:
        """Return the numbers of the parts with quarantined rows."""
        return _numbers(listing.list_files(storage.join(self.output, QUARANTINE)), "jsonl")

    def stored_receipts(self) -> set[int]:
        """Return the numbers of the parts with receipts."""
        return _numbers(listing.list_files(storage.join(self.output, RECEIPTS)), "json")

    def receipts(self, besides: Collection[int] = ()) -> Iterable[Receipt]:
        """Read all receipts, ordered by part number, in groups of `MAX_HELD`.

        Args:
            besides: The numbers of parts whose receipts are not read.
        """
        chosen = self.stored_receipts().difference(besides)
        names = [self.receipt(index) for index in sorted(chosen)]
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            for start in range(0, len(names), MAX_HELD):
                some = names[start : start + MAX_HELD]
                yield from pool.map(lambda name: _parse(name, Receipt), some)

    def _place_of(self, plan: ScorePlan) -> str:
        return storage.join(self.output, plan_name(plan.generation))

    def _read(self, path: str, kind: type[_Stored]) -> _Stored | None:
        return _parse(path, kind) if storage.exists(path) else None


def _encode(spec: Spec) -> bytes:
    return to_json(spec.dump(), ensure_ascii=False).encode()


def _parse(path: str, kind: type[_Stored]) -> _Stored:
    remedy = _remedy(path)
    content = storage.read_json(path, remedy)
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        allowed = "was written by a newer clftask"
        raise DataError(Problem(path, version, allowed, "Upgrade clftask."))
    try:
        return kind.load(content)
    except ConfigError:
        raise DataError(Problem(path, None, "is damaged", remedy)) from None


def _remedy(path: str) -> str:
    """Return the remedy for a damaged file; all but the plan can be derived from the parts."""
    is_plan = PLANS.fullmatch(path.rpartition("/")[2]) is not None
    return "Restore it, or use another output." if is_plan else "Delete it, run the job again."


def _numbers(files: Iterable[listing.FileInfo], kind: str) -> set[int]:
    """Return the numbers of files such as part-00007.json.

    Other names are ignored, such as temporary files of a killed or concurrent run.
    """
    pattern = re.compile(rf".*/part-([0-9]{{5,}})\.{kind}")
    return {int(found[1]) for file in files if (found := pattern.fullmatch(file.path))}
