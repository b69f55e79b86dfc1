"""Opens text files as UTF-8: handles compression, other encodings and byte order marks."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

import pyarrow as pa

from clftask.errors import DataError, Problem
from clftask.io import filesystems
from clftask.io.storage_errors import translate_storage_errors

SAMPLE_BYTES = 1 << 20
_REQUEST_BYTES = 4 << 20  # small requests to an object store are slow
MAX_ROW_BYTES = 64 << 20
BOM = b"\xef\xbb\xbf"
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
COMPRESSED = tuple(_CODECS)
_NO_TEXT = {
    b"\x1f\x8b": ("compressed with gzip", "Let its name end with .gz."),
    b"BZh9": ("compressed with bzip2", "Let its name end with .bz2."),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "Let its name end with .zst."),
    b"PK\x03\x04": ("a zip archive or an Excel file", "Unpack it, or let its name end with .xlsx."),
    b"PAR1": ("Parquet", "Let its name end with .parquet."),
}


def with_compressed(*suffixes: str) -> tuple[str, ...]:
    """Return suffixes of text formats, and those of the compressed forms."""
    return tuple(suffix + end for suffix in suffixes for end in ("", *COMPRESSED))


@dataclass(frozen=True)
class TextFile:
    """A text file, with its beginning in UTF-8.

    Attributes:
        path: The path; its ending tells whether the file is compressed.
        encoding: The encoding that `detect_encoding` returns for the first MB.
        has_bom: Whether the file begins with the byte order mark of UTF-8.
        head: The first MB in UTF-8, without byte order mark.
    """

    path: str
    encoding: str
    has_bom: bool
    head: bytes

    @classmethod
    def of(cls, path: str) -> TextFile:
        """Read a file's beginning.

        Raises:
            DataError: The file has another format.
        """
        with _open(path) as stream:
            raw = bytes(stream.read(SAMPLE_BYTES))
        for magic, (found, remedy) in _NO_TEXT.items():
            if raw.startswith(magic):
                raise DataError(Problem(path, None, f"is not text, but {found}", remedy))
        encoding, head = detect_encoding(raw), raw.removeprefix(BOM)
        if not _is_utf8(encoding):
            head = codecs.getincrementaldecoder(encoding)("replace").decode(raw).encode()
        return cls(path, encoding, raw.startswith(BOM), head)

    def open(self) -> pa.NativeFile:
        """Open the file as a stream of UTF-8 without byte order mark."""
        stream = _open(self.path)
        if not _is_utf8(self.encoding):
            return pa.transcoding_input_stream(stream, self.encoding, "utf-8")
        if self.has_bom:
            stream.read(len(BOM))
        return stream


def _open(path: str) -> pa.NativeFile:
    fs, inner = filesystems.filesystem(path)
    compression = next((_CODECS[end] for end in _CODECS if path.lower().endswith(end)), None)
    with translate_storage_errors(path):
        return fs.open_input_stream(inner, compression=compression, buffer_size=_REQUEST_BYTES)


def _is_utf8(encoding: str) -> bool:
    return encoding in ("utf-8", "ascii")


def detect_encoding(data: bytes) -> str:
    """Detect a text's encoding: from the byte order mark, as UTF-8, or from its statistics.

    Text counts as UTF-8 if it has fewer invalid bytes than valid non-ASCII characters, so that
    a damaged row does not change the encoding of the others.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    # An incremental decoder, because the sample may end within a character.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=len(data) < SAMPLE_BYTES)
    num_damaged = text.count("\ufffd") - data.count("\ufffd".encode())
    if not num_damaged:
        return "utf-8"
    num_valid = len(text) - len(text.encode("ascii", "ignore")) - num_damaged
    return "utf-8" if num_damaged < num_valid else _guess(data[:SAMPLE_BYTES])


def _guess(data: bytes) -> str:
    import charset_normalizer

    matches = charset_normalizer.from_bytes(data)
    best = matches.best()
    # charset_normalizer scores cp1250 and cp1257 as high as the more common cp1252.
    is_western = any("cp1252" in match.could_be_from_charset for match in matches)
    return best.encoding if best and not is_western else "cp1252"
