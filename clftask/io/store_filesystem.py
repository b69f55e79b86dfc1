"""Object stores as a pyarrow filesystem, for readers of tables and for Ray's own state of a run.

Ray pickles the filesystem into what it stores. This one holds no client and no credentials.
"""

from __future__ import annotations

import io
from typing import Any, NoReturn

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSystemHandler, FileType

from clftask.io import object_stores
from clftask.io.storage_errors import store_name, translate_storage_errors


class StoreFilesystem(FileSystemHandler):  # type: ignore[misc]
    """Files of all buckets of a store; paths are URLs without their scheme."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme

    # pyarrow compares filesystems by their handlers.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreFilesystem) and self.scheme == other.scheme

    def __hash__(self) -> int:
        return hash(self.scheme)

    def get_type_name(self) -> str:
        """Return the name that Ray logs."""
        return f"clftask-{self.scheme}"

    def normalize_path(self, path: str) -> str:
        return path

    def _url(self, path: str) -> str:
        return f"{self.scheme}://{path}"

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> FileInfo:
        url = self._url(path)
        with translate_storage_errors(url):
            if found := object_stores.head(url):
                return _file_info(path, found)
            is_folder = object_stores.is_folder(url)
        return FileInfo(path, FileType.Directory if is_folder else FileType.NotFound)

    def get_file_info_selector(self, selector: Any) -> list[FileInfo]:
        url, bucket = self._url(selector.base_dir), selector.base_dir.partition("/")[0]
        with translate_storage_errors(url):
            files, folders = object_stores.listed(url, selector.recursive)
        if not (files or folders or selector.allow_not_found):
            raise FileNotFoundError(selector.base_dir)
        found = [FileInfo(f"{bucket}/{folder}", FileType.Directory) for folder in folders]
        return found + [_file_info(f"{bucket}/{file['path']}", file) for file in files]

    def open_input_file(self, path: str) -> Any:
        url = self._url(path)
        with translate_storage_errors(url):
            return pa.PythonFile(_ObjectReader(url), mode="r")

    open_input_stream = open_input_file

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """Open an object; closing it uploads it."""
        return pa.PythonFile(_Upload(self._url(path)), mode="w")

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: object stores have no folders."""

    def delete_dir(self, path: str) -> None:
        with translate_storage_errors(self._url(path)):
            object_stores.delete(self._url(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.delete_dir(path)

    delete_file = delete_dir

    def delete_root_dir_contents(self) -> NoReturn:
        """Refuse to delete buckets."""
        raise io.UnsupportedOperation("deleting buckets is not supported")

    def move(self, src: str, dest: str) -> NoReturn:
        """Refuse: Ray calls none."""
        raise io.UnsupportedOperation(f"{store_name(self.scheme)} has no move: {src}")

    def copy_file(self, src: str, dest: str) -> NoReturn:
        """Refuse: Ray copies only between local disks and stores."""
        raise io.UnsupportedOperation(
            f"copying within {store_name(self.scheme)} is not supported: {src}"
        )

    def open_append_stream(self, path: str, metadata: Any) -> NoReturn:
        """Refuse: object stores cannot append."""
        raise io.UnsupportedOperation(f"{store_name(self.scheme)} has no append: {path}")


def _file_info(path: str, found: Any) -> FileInfo:
    mtime_ns = int(found["last_modified"].timestamp() * 1e9)
    return FileInfo(path, FileType.File, size=found["size"], mtime_ns=mtime_ns)


class _ObjectReader(io.RawIOBase):
    """An object that is read in the ranges that are asked for."""

    def __init__(self, url: str) -> None:
        import obstore

        self._url = url
        self._store, self._key = object_stores.opened(url)
        self._size, self._at = obstore.head(self._store, self._key)["size"], 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = (0, self._at, self._size)[whence] + offset
        return self._at

    def read(self, size: int = -1) -> Any:
        import obstore

        end = self._size if size < 0 else min(self._size, self._at + size)
        if end <= self._at:
            return b""
        with translate_storage_errors(self._url):
            found = obstore.get_range(self._store, self._key, start=self._at, end=end)
        self._at = end
        return found


class _Upload(io.BytesIO):
    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def close(self) -> None:
        if not self.closed:
            with translate_storage_errors(self.url):
                object_stores.put(self.url, self.getvalue())
        super().close()
