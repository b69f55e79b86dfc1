"""S3 filesystem for Ray's own state of a run: pyarrow reads, `clftask.io.storage` writes.

Ray pickles the filesystem into what it stores, and pyarrow's `S3FileSystem` pickles its
credentials, which also expire; it sets no server-side encryption. This one has no state.
"""

from __future__ import annotations

import io
from typing import Any, NoReturn

import pyarrow as pa
from pyarrow.fs import FileSystemHandler, PyFileSystem

from clftask.io import filesystems, storage


def s3_state() -> Any:
    """Return a pyarrow filesystem whose paths are bucket/key."""
    return PyFileSystem(_S3State())


class _S3State(FileSystemHandler):  # type: ignore[misc]
    """Uses the current client and credentials of each machine."""

    # pyarrow compares filesystems by their handlers.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, _S3State)

    def __hash__(self) -> int:
        return hash(_S3State)

    def get_type_name(self) -> str:
        """Return the name that Ray logs."""
        return "clftask-s3"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> Any:
        return _reader().get_file_info(paths)

    def get_file_info_selector(self, selector: Any) -> Any:
        return _reader().get_file_info(selector)

    def open_input_stream(self, path: str) -> Any:
        return _reader().open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        return _reader().open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """Open an object; closing it uploads it."""
        return pa.PythonFile(_Upload(path), mode="w")

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: S3 has no folders."""

    def delete_dir(self, path: str) -> None:
        storage.delete(f"s3://{path}")

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        storage.delete(f"s3://{path}")

    def delete_file(self, path: str) -> None:
        storage.delete(f"s3://{path}")

    def delete_root_dir_contents(self) -> NoReturn:
        """Refuse to delete buckets."""
        raise io.UnsupportedOperation("deleting buckets is not supported")

    def move(self, src: str, dest: str) -> NoReturn:
        """Refuse: S3 has no move, and Ray calls none."""
        raise io.UnsupportedOperation(f"S3 has no move: {src}")

    def copy_file(self, src: str, dest: str) -> NoReturn:
        """Refuse: Ray copies only between local disks and S3."""
        raise io.UnsupportedOperation(f"copying within S3 is not supported: {src}")

    def open_append_stream(self, path: str, metadata: Any) -> NoReturn:
        """Refuse: S3 cannot append."""
        raise io.UnsupportedOperation(f"S3 has no append: {path}")


def _reader() -> Any:
    return filesystems.filesystem("s3://any")[0]


class _Upload(io.BytesIO):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def close(self) -> None:
        if not self.closed:
            storage.put(f"s3://{self.path}", self.getvalue())
        super().close()
