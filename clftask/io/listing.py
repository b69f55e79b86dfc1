"""List the files of folders and globs, each file once in spite of links."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clftask.io import object_stores
from clftask.io.filesystems import absolute, filesystem, is_url, kind
from clftask.io.storage_errors import translate_storage_errors


@dataclass(frozen=True)
class FileInfo:
    """A file.

    Attributes:
        path: The path as given to `list_files`, plus the file's name.
        size: In bytes.
        mtime: Unix time of its last change; 0 if unknown.
    """

    path: str
    size: int
    mtime: float = field(default=0.0, compare=False)


def list_files(path: str, recursive: bool = True, markers: bool = True) -> list[FileInfo]:
    """List the files below a folder, sorted; an absent folder has none.

    Args:
        path: The folder.
        recursive: Whether to include its subfolders.
        markers: Whether to include subfolders whose names begin with `_` or `.`; only used on
            local disks.
    """
    with translate_storage_errors(path):
        if object_stores.is_store(path):
            found = _stored_files(path, recursive)
        elif is_url(path):
            found = _other_files(path, recursive)
        else:
            found = _local_files(absolute(path), recursive, markers)
        return sorted(found, key=lambda f: f.path)


def _stored_files(path: str, recursive: bool) -> Iterator[FileInfo]:
    top, start = path.rstrip("/"), len(object_stores.split(path)[1])
    for file in object_stores.listed(path, recursive)[0]:
        name = file["path"][start:].lstrip("/")
        yield FileInfo(f"{top}/{name}", file["size"], file["last_modified"].timestamp())


def _other_files(path: str, recursive: bool) -> Iterator[FileInfo]:
    from pyarrow.fs import FileSelector, FileType

    fs, inner = filesystem(path)
    for file in fs.get_file_info(FileSelector(inner, recursive=recursive, allow_not_found=True)):
        if file.type == FileType.File:
            # Relative: for likeabfs://container@account/folder, fsspec's begin with container/.
            name = file.path.strip("/").removeprefix(inner.strip("/")).lstrip("/")
            yield FileInfo(f"{path.rstrip('/')}/{name}", file.size, (file.mtime_ns or 0) / 1e9)


def _local_files(folder: str, recursive: bool, markers: bool) -> Iterator[FileInfo]:
    for place in _folders([folder], markers) if recursive else [folder]:
        for entry in _entries(place):
            if entry.is_file():
                found = entry.stat()
                yield FileInfo(entry.path, found.st_size, found.st_mtime)


def _folders(starts: Iterable[str], markers: bool) -> Iterator[str]:
    """Yield folders and their subfolders, each once, because links can form cycles.

    Without `markers`, names that begin with `_` or `.` are not followed. Links to such folders
    are, if the link's own name does not begin so.
    """
    seen: set[str] = set()
    waiting = sorted(starts, reverse=True)
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real not in seen:
            seen.add(real)
            yield folder
            inner = [entry for entry in _entries(folder) if entry.is_dir()]
            inner = [entry for entry in inner if markers or entry.name[0] not in "._"]
            inner.sort(key=lambda entry: (entry.is_symlink(), entry.name), reverse=True)
            waiting += [entry.path for entry in inner]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as found:
        return list(found)
    return []


def expand(pattern: str) -> list[str]:
    """Return the files that a path, folder or glob matches, sorted.

    Names that begin with `_`, `.` or `~$` (locks of Excel) below a folder are markers, not data,
    and are excluded.
    """
    pattern = absolute(pattern)
    if not is_url(pattern) and Path(pattern).is_file():
        return [pattern]
    magic = _magic(pattern)
    base = pattern[: magic.start()].rpartition("/")[0] if magic else pattern
    if magic and not is_url(pattern):
        files = _globbed(pattern)
    elif magic:
        files = _matching(pattern, [f.path for f in list_files(base)])
    elif (is_a := kind(pattern)) == "Directory":
        files = [f.path for f in list_files(base, markers=False)]
    else:
        return [pattern] if is_a == "File" else []
    return [f for f in files if not re.search(r"/([._]|~\$)", f[len(base) :])]


def _magic(pattern: str) -> re.Match[str] | None:
    """Return the first wildcard of a glob; None if a folder has this name, brackets included."""
    found = re.search(r"[*?\[]", pattern)
    if found is None or (is_url(pattern) and "*" in pattern):
        return found
    is_name = kind(pattern) != "NotFound" if is_url(pattern) else Path(pattern).is_dir()
    return None if is_name else found


def _globbed(pattern: str) -> list[str]:
    """Return the files that a local glob matches; each folder is listed once."""
    root, *parts = Path(pattern).parts
    places = {root}
    with translate_storage_errors(pattern):
        for part in [*parts, "*"] if parts[-1:] == ["**"] else parts:
            folders = [place for place in places if Path(place).is_dir()]
            if part == "**":
                places = set(_folders(folders, markers=False))
            elif re.search(r"[*?\[]", part):
                fits = re.compile(fnmatch.translate(part)).match
                places = {e.path for place in folders for e in _entries(place) if fits(e.name)}
            else:
                places = {str(Path(place, part)) for place in places}
        return sorted(place for place in places if Path(place).is_file())


def _matching(pattern: str, paths: list[str]) -> list[str]:
    """Return the paths that a glob matches; RE2 takes linear time for any pattern."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from fsspec.utils import glob_translate

    with translate_storage_errors(pattern):
        regex = glob_translate(pattern).removesuffix(r"\Z")  # which RE2 does not support
        found = pc.match_substring_regex(pa.array(paths, pa.string()), f"^{regex}$")
    return [path for path, fits in zip(paths, found.to_pylist(), strict=True) if fits]


def stands_for(pattern: str, path: str) -> bool:
    """Tell whether a folder or glob would match a file if the file existed."""
    pattern, path = _real_path(absolute(pattern)), _real_path(path)
    if _magic(pattern):
        return _matching(pattern, [path]) == [path]
    return path.startswith(pattern + "/")


def _real_path(path: str) -> str:
    return path if is_url(path) else os.path.realpath(path)
