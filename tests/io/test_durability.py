"""Power losses: a marker is renamed into place only when all that it names is synced to disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from score_world import World

from clftask.io import storage
from clftask.models import bundle
from clftask.training.checkpoints import Checkpoints


class Disk:
    """Follows what would survive a power loss: synced contents, and synced entries of folders.

    When a marker gets its name, everything else below its folder must survive. The marker itself
    may survive at once: a disk may write names early.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.synced: set[tuple[int, int]] = set()  # inode, size
        self.entries: dict[Path, set[str]] = {}
        self.lost_at: dict[str, list[str]] = {}
        for name, before in (("fsync", os.fsync), ("replace", os.replace), ("link", os.link)):
            monkeypatch.setattr(os, name, self._spied(name, before))

    def _spied(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def spied(*arguments: Any) -> None:
            if name == "fsync":
                call(*arguments)
                self._sync(Path(f"/proc/self/fd/{arguments[0]}").readlink())
                return
            self.lost_at[Path(arguments[1]).relative_to(self.root).as_posix()] = self.lost(
                Path(arguments[0])
            )
            call(*arguments)

        return spied

    def _sync(self, path: Path) -> None:
        if path.is_dir():
            self.entries[path] = {entry.name for entry in path.iterdir()}
        else:
            self.synced.add((path.stat().st_ino, path.stat().st_size))

    def lost(self, but: Path) -> list[str]:
        """Return the files that a power loss would now tear or take, without temporary ones."""
        files = [p for p in self.root.rglob("*") if p.is_file() and p != but]
        return sorted(
            file.relative_to(self.root).as_posix()
            for file in files
            if not file.name.startswith(".tmp-") and not self._survives(file)
        )

    def _survives(self, file: Path) -> bool:
        within = [file, *file.parents]
        within = within[: within.index(self.root)]
        names = all(place.name in self.entries.get(place.parent, set()) for place in within)
        return names and (file.stat().st_ino, file.stat().st_size) in self.synced


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    (tmp_path / "disk").mkdir()
    return Disk(tmp_path / "disk", monkeypatch)


def local_folder(tmp_path: Path, name: str = "local") -> str:
    folder = tmp_path / name
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(9_000_000))
    (folder / "inner" / "state").write_bytes(b"state")
    return str(folder)


def test_the_disk_of_this_test_sees_what_is_not_synced(disk: Disk) -> None:
    """The spy can fail: a plain write is lost, so is a synced file whose folder is not."""
    (disk.root / "plain").write_bytes(b"x")
    with (disk.root / "synced").open("wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
    assert disk.lost(disk.root) == ["plain", "synced"]
    handle = os.open(disk.root, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    assert disk.lost(disk.root) == ["plain"]


def test_a_checkpoint_is_synced_before_its_marker(disk: Disk, tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(disk.root / "run" / "checkpoints"), 1, str(tmp_path / "scratch"))
    metrics = str(disk.root / "run" / "metrics.jsonl")
    for step in (10, 20):
        folder = local_folder(tmp_path, f"checkpoint-{step}")
        checkpoints.save(folder, step, step, "fp32", lambda: storage.put(metrics, b"{}"))
        checkpoints.wait()
    markers = {n: lost for n, lost in disk.lost_at.items() if n.endswith("complete.json")}
    assert markers == {
        "run/checkpoints/step-0000010/complete.json": [],
        "run/checkpoints/step-0000020/complete.json": [],
    }
    assert "run/checkpoints/step-0000010/inner/state" in disk.lost_at


def test_a_marker_is_gone_from_the_disk_before_the_files_that_it_names(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(str(disk.root / "run"), 1, str(tmp_path / "scratch"))
    checkpoints.save(local_folder(tmp_path), 10, 10, "fp32", lambda: None)
    checkpoints.wait()
    place = disk.root / "run" / "step-0000010"
    seen: list[set[str]] = []
    delete = storage.delete

    def spied(path: str) -> None:
        if path == str(place):
            seen.append(disk.entries[place])
        delete(path)

    monkeypatch.setattr(storage, "delete", spied)
    checkpoints.save(local_folder(tmp_path, "next"), 20, 20, "fp32", lambda: None)
    checkpoints.wait()
    assert seen == [{"model.safetensors", "inner"}]


def test_a_bundle_is_synced_before_its_marker(disk: Disk, tmp_path: Path) -> None:
    for name in ("first", "second"):  # the second replaces the first by way of `_next`
        folder = Path(local_folder(tmp_path, name))
        (folder / bundle.META).write_text("{}")
        bundle.publish(folder, str(disk.root / "bundle"))
    markers = {n: lost for n, lost in disk.lost_at.items() if n.endswith(bundle.META)}
    assert markers == {"bundle/clftask.json": [], "bundle/_next/clftask.json": []}
    assert (disk.root / "bundle" / "model.safetensors").stat().st_size == 9_000_000


def test_parts_are_synced_before_receipts_and_both_before_the_manifest(
    disk: Disk, tiny_bundle: Path, tmp_path: Path
) -> None:
    world = World(tmp_path, tiny_bundle)
    world.write("a.parquet", 25)
    world.run(output={"path": str(disk.root / "out")}, shard_rows=10)
    lost = {n: found for n, found in disk.lost_at.items() if n.startswith("out/")}
    assert set(lost) >= {"out/_plan.json", "out/_receipts/part-00002.json", "out/_manifest.json"}
    assert lost["out/_manifest.json"] == []
    assert lost["out/_receipts/part-00002.json"] == []
    assert lost["out/part-00002.parquet"] == []


@pytest.mark.parametrize("put", [storage.put, storage.put_if_absent])
def test_a_file_is_on_disk_when_put_returns(disk: Disk, put: Any) -> None:
    put(str(disk.root / "deep" / "er" / "x"), b"data")
    assert disk.lost(disk.root) == []


def test_a_folder_that_cannot_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems answer EINVAL to fsync of a folder."""
    fsync = os.fsync

    def no_folders(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(22, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", no_folders)
    storage.put(str(tmp_path / "x"), b"data")
    assert (tmp_path / "x").read_bytes() == b"data"
