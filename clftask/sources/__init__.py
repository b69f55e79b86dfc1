"""Tables in: one class a format, each knowing its files, its columns and how to read them.

To add a format: subclass `Source`, say which file names are its own, read columns into an
Arrow table and stream them in batches, and put the class into `SOURCES`.
"""

from clftask.sources.base import BAD, FILE, ROW, Source, Survey
from clftask.sources.columnar import Arrow, Parquet
from clftask.sources.delimited import Csv, Tsv
from clftask.sources.jsonlines import JsonLines
from clftask.sources.opening import SOURCES, open_file, open_source
from clftask.sources.saved import Saved
from clftask.sources.textfiles import detect_encoding

__all__ = [
    "BAD",
    "FILE",
    "ROW",
    "SOURCES",
    "Arrow",
    "Csv",
    "JsonLines",
    "Parquet",
    "Saved",
    "Source",
    "Survey",
    "Tsv",
    "detect_encoding",
    "open_file",
    "open_source",
]
