"""S3 for Ray's own state of a run: reading is pyarrow's, writing is that of all of clftask.

pyarrow's own filesystem carries the keys of the machine that made it, and Ray pickles it into
what it stores; it writes without encryption, and its keys end. This one carries nothing.
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
    """Uses, on each machine, the client and the credentials that it has now."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _S3State)

    def __hash__(self) -> int:
        return hash(_S3State)

    def get_type_name(self) -> str:
        """Return what Ray calls it in its logs."""
        return "clftask-s3"

    def normalize_path(self, path: str) -> str:
        """Return the path as it is."""
        return path

    def get_file_info(self, paths: list[str]) -> Any:
        """Return what is at some paths."""
        return _reader().get_file_info(paths)

    def get_file_info_selector(self, selector: Any) -> Any:
        """Return what is below a path."""
        return _reader().get_file_info(selector)

    def open_input_stream(self, path: str) -> Any:
        """Open an object."""
        return _reader().open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        """Open an object for reading anywhere in it."""
        return _reader().open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """Open an object that is written when it is closed."""
        return pa.PythonFile(_Upload(path), mode="w")

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: S3 has no folders."""

    def delete_dir(self, path: str) -> None:
        """Remove all below a path."""
        storage.delete(f"s3://{path}")

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """Remove all below a path."""
        storage.delete(f"s3://{path}")

    def delete_file(self, path: str) -> None:
        """Remove an object."""
        storage.delete(f"s3://{path}")

    def delete_root_dir_contents(self) -> NoReturn:
        """Refuse to remove whole buckets."""
        raise io.UnsupportedOperation("the buckets themselves are not removed")

    def move(self, src: str, dest: str) -> NoReturn:
        """Refuse: S3 moves nothing, and Ray asks for no move."""
        raise io.UnsupportedOperation(f"nothing on S3 is moved: {src}")

    def copy_file(self, src: str, dest: str) -> NoReturn:
        """Refuse: Ray copies between machines and S3 alone."""
        raise io.UnsupportedOperation(f"nothing is copied within S3: {src}")

    def open_append_stream(self, path: str, metadata: Any) -> NoReturn:
        """Refuse: S3 cannot append."""
        raise io.UnsupportedOperation(f"S3 does not append: {path}")


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
