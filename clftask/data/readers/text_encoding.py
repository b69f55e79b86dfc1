"""Text files: gzip, encodings and byte order marks are gone when a format sees them."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

import pyarrow as pa

from clftask.io import filesystems

SAMPLE_BYTES = 1 << 20
_REQUEST_BYTES = 4 << 20  # small ones are slow from an object store
MAX_ROW_BYTES = 64 << 20  # Arrow reads 32 blocks of CSV ahead, and a block holds a row at least
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class TextFile:
    """A text file, and its beginning in UTF-8.

    Attributes:
        path: Where it lies; gzipped if the name ends on `.gz`.
        encoding: As `detect_encoding` finds it in the first MB.
        has_bom: Whether it begins with the byte order mark of UTF-8.
        head: The first MB in UTF-8, without the mark.
        is_whole: Whether `head` is the whole file.
    """

    path: str
    encoding: str
    has_bom: bool
    head: bytes
    is_whole: bool

    @classmethod
    def of(cls, path: str) -> TextFile:
        """Look at a file's beginning."""
        with _open(path) as stream:
            raw = bytes(stream.read(SAMPLE_BYTES))
        encoding, head = detect_encoding(raw), raw.removeprefix(BOM)
        if not _is_utf8(encoding):
            head = codecs.getincrementaldecoder(encoding)("replace").decode(raw).encode()
        return cls(path, encoding, raw.startswith(BOM), head, len(raw) < SAMPLE_BYTES)

    @property
    def is_blank(self) -> bool:
        """Whether the file holds nothing but white space."""
        return self.is_whole and not self.head.strip()

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
    compression = "gzip" if path.lower().endswith(".gz") else None
    with filesystems.translate_storage_errors(path):
        return fs.open_input_stream(inner, compression=compression, buffer_size=_REQUEST_BYTES)


def _is_utf8(encoding: str) -> bool:
    return encoding in ("utf-8", "ascii")


def detect_encoding(data: bytes) -> str:
    """Name a text's encoding: by its byte order mark, as UTF-8, else by its statistics.

    Text is UTF-8 although some bytes are not, as long as these are fewer than its non-ASCII
    characters: one damaged row must not turn all others into gibberish.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    # Not data.decode: a sample may end within a character.
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
    # Its rivals for western text (cp1250, cp1257) score as well, and are rarer.
    is_western = any("cp1252" in match.could_be_from_charset for match in matches)
    return best.encoding if best and not is_western else "cp1252"
