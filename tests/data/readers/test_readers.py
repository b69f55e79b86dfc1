from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import json
import threading
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyreadstat
import pytest
from pyarrow import csv, feather, ipc, parquet

from clftask.data.readers.csv import Csv
from clftask.data.readers.hf_datasets import Saved
from clftask.data.readers.registry import SOURCES, open_source
from clftask.errors import DataError, Problem
from clftask.io import storage

TEXTS = ["plain", 'say "hi", ok', "two\nlines", "tab\there", "naïve 東京 🙂", "007"]
LABELS = [3, 1, 2, 1, 3, 2]
TABLE = pa.table({"text": TEXTS, "label": LABELS, "other": LABELS})


def read(path: Any, columns: tuple[str, ...] = ("text", "label")) -> pa.Table:
    """Read the one source behind a path, `text` as strings."""
    sources = open_source(str(path), "data.train")
    assert list(sources) == ["train"]
    return sources["train"].read(columns, ["text"])


def refused(call: Callable[..., Any], *arguments: Any) -> Problem:
    with pytest.raises(DataError) as caught:
        call(*arguments)
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    return problem


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ------------------------------------------------------------------ every format


def write_csv(path: Path, delimiter: str = ",") -> None:
    csv.write_csv(TABLE, path, csv.WriteOptions(delimiter=delimiter))


def write_gzip(path: Path) -> None:
    write_csv(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def write_json_lines(path: Path) -> None:
    TABLE.to_pandas().to_json(path, orient="records", lines=True)


def write_stream(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, ipc.new_stream(file, TABLE.schema) as writer:
        writer.write_table(TABLE)


WRITERS: dict[str, Callable[[Path], None]] = {
    ".csv": write_csv,
    ".csv.gz": write_gzip,
    ".xlsx": lambda path: TABLE.to_pandas().to_excel(path, index=False),
    ".dta": lambda path: TABLE.to_pandas().to_stata(path, version=118, write_index=False),
    ".sav": lambda path: pyreadstat.write_sav(TABLE.to_pandas(), path),
    ".xpt": lambda path: pyreadstat.write_xport(TABLE.to_pandas(), path),
    ".tsv": lambda path: write_csv(path, "\t"),
    ".tab": lambda path: write_csv(path, "\t"),
    ".jsonl": write_json_lines,
    ".ndjson": write_json_lines,
    ".json": write_json_lines,
    ".parquet": lambda path: parquet.write_table(TABLE, path),
    ".pq": lambda path: parquet.write_table(TABLE, path, compression="zstd"),
    ".feather": lambda path: feather.write_feather(TABLE, str(path)),
    ".ipc": lambda path: feather.write_feather(TABLE, str(path), compression="uncompressed"),
    ".arrow": write_stream,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path)
    assert open_source(str(path), "data.train")["train"].names() == ["text", "label", "other"]
    table = read(path)
    assert table.column_names == ["text", "label", "_file", "_row"]
    assert table["text"].to_pylist() == TEXTS
    assert table["label"].to_pylist() == LABELS
    assert table["_file"].to_pylist() == [str(path)] * 6
    assert table["_row"].to_pylist() == [0, 1, 2, 3, 4, 5]


def test_every_source_is_tried_above() -> None:
    assert all(set(source.suffixes) & set(WRITERS) for source in SOURCES)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl", ".feather"])
def test_a_missing_column_names_file_and_column(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path)
    problem = refused(read, path, ("text", "topic"))
    assert problem.path == str(path)
    assert "topic" in problem.allowed


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".arrow", ".jsonl"])
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    WRITERS[suffix](path)
    path.write_bytes(path.read_bytes()[:100] if suffix != ".jsonl" else b'{"text": "a", "lab')
    assert refused(read, path).path == str(path)


def test_dictionary_columns_come_out_plain(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["a", "b"]), "label": pa.array(["x", "y"])})
    encoded = table.set_column(1, "label", table["label"].dictionary_encode())
    parquet.write_table(encoded, tmp_path / "rows.parquet")
    found = read(tmp_path / "rows.parquet")
    assert found.schema.field("label").type == pa.string()
    assert found["label"].to_pylist() == ["x", "y"]


# ------------------------------------------------------------------ several files


def test_rows_are_numbered_in_each_file_of_a_folder(tmp_path: Path) -> None:
    b = written(tmp_path / "d", "b.csv", "text,label\nx,3\n")
    a = written(tmp_path / "d", "a.csv", "label,text\n1,y\n2,z\n")
    written(tmp_path / "d", "README.md", "not data")
    written(tmp_path / "d", "_c.csv", "a marker")
    for path in (tmp_path / "d", tmp_path / "d" / "[ab].csv"):
        table = read(path)
        assert table["text"].to_pylist() == ["y", "z", "x"]
        assert table["_file"].to_pylist() == [str(a), str(a), str(b)]
        assert table["_row"].to_pylist() == [0, 1, 0]


def test_a_bucket_is_read_like_a_folder(s3: Any, tmp_path: Path) -> None:
    folder = f"{s3.bucket}/{uuid.uuid4().hex}"
    write_csv(tmp_path / "a.csv")
    storage.put(f"{folder}/a.csv", (tmp_path / "a.csv").read_bytes())
    storage.put(f"{folder}/b.csv", b"text,label\nlast,9\n")
    for path in (folder, f"{folder}/*.csv"):
        table = read(path)
        assert table["text"].to_pylist() == [*TEXTS, "last"]
        assert table["_file"].to_pylist() == [f"{folder}/a.csv"] * 6 + [f"{folder}/b.csv"]


def test_files_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "d", "a.csv", "text,label\nx,1\n")
    path = written(tmp_path / "d", "b.csv", "text,Labels\ny,2\n")
    problem = refused(read, tmp_path / "d")
    assert (problem.path, problem.allowed) == (str(path), "lacks the column 'label'")
    assert problem.remedy == "Did you mean Labels?"


def write_parquet(path: Path, labels: list[Any]) -> None:
    parquet.write_table(pa.table({"text": ["x"] * len(labels), "label": labels}), path)


def write_labels(path: Path, labels: list[Any]) -> None:
    path.write_text("".join(json.dumps({"text": "x", "label": v}) + "\n" for v in labels))


@pytest.mark.parametrize(
    ("suffix", "write"), [(".parquet", write_parquet), (".jsonl", write_labels)]
)
@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        ([10, 2], ["V1", "2"], ["10", "2", "V1", "2"]),
        (["V1", None], [3, None], ["V1", None, "3", None]),
        ([True], ["x"], ["true", "x"]),
        ([[1, 2], None], [["a"]], [["1", "2"], None, ["a"]]),
    ],
)
def test_numbers_in_one_file_and_text_in_another_are_one_column(
    tmp_path: Path, suffix: str, write: Any, first: Any, second: Any, wanted: Any
) -> None:
    (tmp_path / "d").mkdir()
    for files in (("a", "b"), ("c", "d")):
        for name, labels in zip(files, (first, second), strict=True):
            write(tmp_path / "d" / f"{name}{suffix}", labels)
    assert read(tmp_path / "d" / f"[ab]{suffix}")["label"].to_pylist() == wanted
    assert read(tmp_path / "d")["label"].to_pylist() == wanted * 2


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        (["1", "2"], ["x"], ["1", "2", "x"]),
        (["1", "2"], ["03"], ["1", "2", "03"]),
        (["1.0"], ["1.50"], ["1.0", "1.50"]),
        (["1"], ["true"], ["1", "true"]),
        (["1"], [""], [1, None]),
    ],
)
def test_a_csv_column_has_one_type_in_all_files(
    tmp_path: Path, first: list[str], second: list[str], wanted: list[Any]
) -> None:
    for name, labels in (("a", first), ("b", second)):
        rows = "".join(f"x,{label}\n" for label in labels)
        written(tmp_path / "d", f"{name}.csv", "text,label\n" + rows)
    assert read(tmp_path / "d")["label"].to_pylist() == wanted


def test_large_lists_and_decimals_are_joined_with_text(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    first = {"text": ["x"], "tags": pa.array([[1, 2]], pa.large_list(pa.int32()))}
    second = {"text": ["x"], "tags": pa.array([["a"]], pa.list_(pa.large_string()))}
    for name, columns, price in (("a", first, Decimal("1.50")), ("b", second, "free")):
        parquet.write_table(pa.table(columns | {"p": [price]}), tmp_path / "d" / f"{name}.parquet")
    table = read(tmp_path / "d", ("tags", "p"))
    assert table["tags"].to_pylist() == [["1", "2"], ["a"]]
    assert table["p"].to_pylist() == ["1.50", "free"]


def test_types_without_a_common_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    write_parquet(tmp_path / "d" / "a.parquet", ["x"])
    write_parquet(tmp_path / "d" / "b.parquet", [["x"]])
    problem = refused(read, tmp_path / "d")
    assert (problem.path, problem.value) == (
        str(tmp_path / "d" / "b.parquet"),
        "string and list<element: string>",
    )
    assert problem.allowed.startswith("column label has another type than in ")
    assert problem.remedy == "Write it with one type in all files."


def test_booleans_in_one_file_and_numbers_in_another_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    write_parquet(tmp_path / "d" / "a.parquet", [True, False])
    write_parquet(tmp_path / "d" / "b.parquet", [1, 0])
    problem = refused(read, tmp_path / "d")
    assert (problem.path, problem.value) == (str(tmp_path / "d" / "b.parquet"), "bool and int64")
    assert problem.remedy == "Write it with one type in all files."


def test_files_of_two_formats_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "d", "a.csv", "text,label\nx,1\n")
    written(tmp_path / "d", "b.jsonl", '{"text": "x", "label": 1}\n')
    problem = refused(read, tmp_path / "d")
    assert (problem.path, problem.value) == ("data.train", [".csv", ".jsonl"])
    assert problem.remedy.endswith("with a glob such as *.csv.")
    problem = refused(read, written(tmp_path, "rows.csv.zip", "PK"))
    assert problem.remedy == "Unpack it, or compress it with gzip, bzip2 or zstd."


@pytest.mark.parametrize("name", ["rows.docx", "rows", "rows.csv.zip"])
def test_an_unknown_extension_is_refused(tmp_path: Path, name: str) -> None:
    problem = refused(read, written(tmp_path, name, "text,label\nx,1\n"))
    assert problem.path == "data.train"
    assert ".parquet" in problem.allowed


@pytest.mark.parametrize("name", ["absent.csv", "*.csv", "absent", ""])
def test_nothing_there_is_refused(tmp_path: Path, name: str) -> None:
    problem = refused(read, tmp_path / "empty" / name)
    assert (problem.path, problem.allowed) == ("data.train", "no file found")


# ------------------------------------------------------------------ text files

SENTENCES = {
    "French": "État présent à la française déjà vu où",
    "German": "„Schöne“ Grüße – 5 € für das Mädchen",
    "Spanish": "El niño comió piñas en la montaña según la canción",
    "Czech": "Příliš žluťoučký kůň úpěl ďábelské ódy",
}
ENCODED = [(name, "French") for name in ("utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1")]
ENCODED += [("cp1252", "German"), ("latin-1", "Spanish"), ("cp1250", "Czech")]


@pytest.mark.parametrize(("encoding", "language"), ENCODED)
def test_encodings(tmp_path: Path, encoding: str, language: str) -> None:
    content = f"text,label\n{SENTENCES[language]},1\nplain,2\n"
    path = written(tmp_path, "rows.csv", content.encode(encoding))
    assert open_source(str(path), "data.train")["train"].names() == ["text", "label"]
    assert read(path)["text"].to_pylist() == [SENTENCES[language], "plain"]


def test_json_lines_that_are_not_utf_8_are_decoded_or_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.jsonl", '{"text": "é", "label": 1}\n'.encode("latin-1"))
    with contextlib.suppress(DataError):
        assert read(path)["text"].to_pylist() == ["é"]


def test_an_unnamed_index_column_does_not_matter(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", ",text,label\n0,x,5\n1,y,6\n")
    assert open_source(str(path), "data.train")["train"].names() == ["", "text", "label"]
    assert read(path)["label"].to_pylist() == [5, 6]


def test_string_columns_keep_what_looks_like_numbers_and_nulls(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.csv", "text,label,group\n007,7,7\n1e3,2,1.0\nNA,NA,\n,4,4\n")
    table = open_source(str(path), "data.train")["train"].read(
        ["text", "label", "group"], ["text"], ["group"]
    )
    assert table["text"].to_pylist() == ["007", "1e3", "NA", ""]
    assert table["label"].to_pylist() == [7, 2, None, 4]
    assert table["group"].to_pylist() == ["7", "1.0", None, "4"]


WRITTEN = [
    ["011", "11"],
    ["1e5", "100000"],
    ["+1", "1"],
    ["0x10", "16"],
    ["09:30", "9:30"],
    ["1.10", "1.1"],
    ["250.0", "250.00"],
    ["250", "250.0"],
    ["2024-01-01", "2024-01-01 00:00"],
    ["2024-01-01T10:00:00Z", "2024-01-01T11:00:00+01:00"],
    ["True", "1"],
    ["True", "TRUE"],
    ["1", "1 "],
    ["-0", "0"],
    ["1e+16", "1E+16"],
    ["9007199254740993", "9007199254740992.0"],
    ["1_000", "1000"],
]


@pytest.mark.parametrize("cells", WRITTEN, ids=" ".join)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".tab"])
def test_two_spellings_of_a_value_are_two_values(
    tmp_path: Path, cells: list[str], suffix: str
) -> None:
    delimiter = "," if suffix == ".csv" else "\t"
    rows = "".join(f"x{delimiter}{cell}\n" for cell in cells)
    path = written(tmp_path, f"rows{suffix}", f"text{delimiter}label\n{rows}")
    assert read(path)["label"].to_pylist() == cells


def test_columns_of_csv_that_are_no_text_have_inferred_types(tmp_path: Path) -> None:
    """Counts with a gap, as pandas writes them, are numbers; names and cells may be quoted."""
    header, rows = (
        'text,n,ok,"the ""x"",",void',
        ['a,1.0,true,"p\nq",', "b,NA,false,,", "c,3.0,,r,"],
    )
    path = written(tmp_path, "rows.csv", "\n".join([header, *rows]))
    table = read(path, ("n", "ok", 'the "x",', "void", "text")).drop_columns(["_file", "_row"])
    assert table.schema.types == [pa.float64(), pa.bool_(), pa.string(), pa.null(), pa.string()]
    assert table.to_pydict() == {
        "n": [1, None, 3],
        "ok": [True, False, None],
        'the "x",': ["p\nq", "", "r"],
        "void": [None] * 3,
        "text": ["a", "b", "c"],
    }


@pytest.mark.parametrize("content", ["", "text,label\n"])
def test_a_csv_file_without_rows_among_others_is_passed_over(tmp_path: Path, content: str) -> None:
    written(tmp_path / "d", "a.csv", content)
    written(tmp_path / "d", "b.csv", "text,label\nx,1\n")
    assert read(tmp_path / "d")["label"].to_pylist() == [1]


def test_numbers_as_json_text_become_strings(tmp_path: Path) -> None:
    path = written(tmp_path, "rows.jsonl", '{"text": 12, "label": 1}\n{"label": 2}\n')
    assert read(path)["text"].to_pylist() == ["12", None]


def test_a_text_longer_than_a_block_is_read(tmp_path: Path) -> None:
    long = "line\n" * 500_000
    path = written(tmp_path, "rows.csv", f'text,label\nx,1\n"{long}",2\ny,3\n')
    assert read(path)["text"].to_pylist() == ["x", long, "y"]


def test_a_ragged_row_is_refused(tmp_path: Path) -> None:
    problem = refused(read, written(tmp_path, "rows.csv", "text,label\nx,1\ny,2,3\n"))
    assert problem.path.endswith("/rows.csv")
    assert "line 3 has 3 cells, the header has 2: y,2,3" in problem.allowed


@pytest.mark.parametrize("content", ["", "\n\n", "text,label\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, "rows.csv", content)
    source = open_source(str(path), "data.train")["train"]
    problem = refused(lambda: source.read(source.names()))
    assert (problem.path, problem.allowed) == (str(path), "contains no rows")


# ------------------------------------------------------------------ saved datasets


def dataset() -> Any:
    import datasets

    features = {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["neg", "pos"]),
        "tags": datasets.Sequence(datasets.ClassLabel(names=["a", "b", "c"])),
    }
    rows = {"text": ["u", "v", "w"], "label": [1, -1, 0], "tags": [[2, 0], [], [1]]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def test_a_saved_dataset_has_names_for_its_labels(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "saved")
    table = read(tmp_path / "saved", ("text", "label", "tags"))
    assert table["text"].to_pylist() == ["u", "v", "w"]
    assert table["label"].to_pylist() == ["pos", None, "neg"]
    assert table["tags"].to_pylist() == [["c", "a"], [], ["b"]]
    assert table["_row"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_integers_beyond_64_bits_stay_apart(tmp_path: Path, name: str) -> None:
    """A double would make them one: hashes are such labels, groups and ids."""
    labels = [18446744073709551615, 18446744073709551614, 7]
    rows = [json.dumps({"label": label, "tags": [label, 7]}) for label in labels]
    content = {".jsonl": "\n".join(rows), ".json": f"[{','.join(rows)}]"}
    content[".csv"] = "label,tags\n" + "".join(f"{label},7\n" for label in labels)
    (tmp_path / name).write_text(content[Path(name).suffix])
    table = read(tmp_path / name, ("label", "tags"))
    assert table["label"].to_pylist() == [str(label) for label in labels]
    if name != "rows.csv":
        assert table["tags"].to_pylist() == [[str(label), "7"] for label in labels]


def with_features(features: dict[str, object], **columns: list[object]) -> pa.Table:
    """Return a table with the metadata that `datasets` stores."""
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.table(columns).replace_schema_metadata(metadata)


def test_label_names_of_old_datasets_with_lists(tmp_path: Path) -> None:
    names = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    texts = {"dtype": "string", "_type": "Value"}
    features = {"label": names, "tags": [names], "words": [texts], "odd": "?"}
    columns = {"label": [0, 1], "tags": [[1], []], "words": [["a"], ["b"]], "odd": [5, 6]}
    parquet.write_table(with_features(features, **columns), tmp_path / "rows.parquet")
    table = read(tmp_path / "rows.parquet", ("label", "tags", "words", "odd"))
    assert table["label"].to_pylist() == ["neg", "pos"]
    assert table["tags"].to_pylist() == [["pos"], []]
    assert table["words"].to_pylist() == [["a"], ["b"]]
    assert table["odd"].to_pylist() == [5, 6]


def test_a_label_without_a_stored_name_is_refused(tmp_path: Path) -> None:
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}
    parquet.write_table(with_features(features, label=[0, 2]), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="the label 2, but 2 ClassLabel names in its metadata"):
        read(tmp_path / "rows.parquet", ("label",))


@pytest.mark.parametrize("name", ["rows.parquet", "saved/data-00000-of-00001.arrow"])
def test_files_of_datasets_have_names_for_their_labels(tmp_path: Path, name: str) -> None:
    dataset().to_parquet(tmp_path / "rows.parquet")
    dataset().save_to_disk(tmp_path / "saved")
    table = read(tmp_path / name, ("text", "label", "tags"))
    assert table["label"].to_pylist() == ["pos", None, "neg"]
    assert table["tags"].to_pylist() == [["c", "a"], [], ["b"]]
    (source,) = open_source(str(tmp_path / name), "data.train").values()
    assert source.unlabelled(["label"]).read(["label"])["label"].to_pylist() == [1, -1, 0]


def test_names_of_labels_that_were_replaced_do_not_matter(tmp_path: Path) -> None:
    dataset().to_parquet(tmp_path / "rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet").drop_columns(["label", "tags"])
    table = table.append_column("label", pa.array(["x", "y", None]))
    parquet.write_table(table.append_column("tags", pa.array([0.5, 1.5, None])), tmp_path / "b.pq")
    found = read(tmp_path / "b.pq", ("label", "tags"))
    assert found["label"].to_pylist() == ["x", "y", None]
    assert found["tags"].to_pylist() == [0.5, 1.5, None]


def test_a_reordered_dataset_is_read_in_its_order() -> None:
    chosen = dataset().select([2, 0])
    table = Saved("here", chosen).read(["label", "tags"])
    assert table["label"].to_pylist() == ["neg", "pos"]
    assert table["tags"].to_pylist() == [["b"], ["c", "a"]]


def test_a_saved_dict_brings_its_own_splits(tmp_path: Path, s3: Any) -> None:
    import datasets

    whole = dataset()
    parts = {"train": whole.select([0, 1]), "dev": whole.select([2]), "extra": whole}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    remote = f"{s3.bucket}/{uuid.uuid4().hex}"
    storage.upload(str(tmp_path / "saved"), remote)
    for path in (str(tmp_path / "saved"), remote):
        sources = open_source(path, "data.train")
        found = {n: s.read(["text", "label"])["text"].to_pylist() for n, s in sources.items()}
        wanted = {"train": ["u", "v"], "validation": ["w"], "extra": ["u", "v", "w"]}
        assert found == wanted


def test_a_damaged_saved_dataset_is_named(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").write_bytes(b"junk")
    assert refused(open_source, str(tmp_path / "saved"), "data.train").path.endswith("/saved")


def test_old_macintosh_line_ends(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"text,label\rone,a\rtwo,b\r")
    source = open_source(str(tmp_path / "t.csv"), "data.train")["train"]
    assert source.names() == ["text", "label"]
    assert source.read(["text"])["text"].to_pylist() == ["one", "two"]


def test_csv_with_semicolons_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text;label\nyes, indeed;pos\n")
    with pytest.raises(DataError, match=r"looks separated by semicolons.*Save it with commas"):
        Csv([str(path)]).names()


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
def test_csv_that_ends_within_a_quote_is_refused(tmp_path, ending):
    """It would be one row, whose text holds all that follows."""
    path = tmp_path / "a.csv"
    path.write_text(f'id,text\n1,"hello\n2,again\n3,third{ending}')
    source = Csv([str(path)])
    for read in (lambda: source.read(["text"]), lambda: source.survey(str(path), ["text"])):
        with pytest.raises(DataError, match=r"a\.csv, line 2: .* never closed"):
            read()
    path.write_text(f'id,text\n1,5" disk\n2,"a ""b""\nc"{ending}')
    assert source.survey(str(path), ["id"]).num_rows == 2
    assert source.read(["text"])["text"].to_pylist() == ['5" disk', 'a "b"\nc']


TWINS = pa.Table.from_arrays([pa.array([v]) for v in ("a", "b", 1)], names=["text", "text", "n"])
TWIN_WRITERS: dict[str, Callable[[Path], Any]] = {
    "rows.csv": lambda path: path.write_text("text,text,n\na,b,1\n"),
    "rows.tsv.gz": lambda path: path.write_bytes(gzip.compress(b"text\ttext\tn\na\tb\t1\n")),
    "rows.parquet": lambda path: parquet.write_table(TWINS, path),
    "rows.feather": lambda path: feather.write_feather(TWINS, str(path)),
}


@pytest.mark.parametrize("name", TWIN_WRITERS)
def test_columns_of_one_name_are_refused_where_they_are_read(tmp_path, name):
    path = tmp_path / name
    TWIN_WRITERS[name](path)
    (source,) = open_source(str(path), "data.train").values()
    for look in (lambda: source.read(["n", "text"]), lambda: source.survey(str(path), ["text"])):
        problem = refused(look)
        assert (problem.path, problem.value) == (str(path), "text")
        assert problem.allowed == "contains several columns of this name"
        assert problem.remedy == "Rename all but one, or remove them."
    assert source.read(["n"])["n"].to_pylist() == [1]
    schema = source.survey(str(path), ["n"]).schema
    assert [batch["n"].to_pylist() for batch in source.batches(str(path), schema)] == [[1]]


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_a_web_address_with_a_query_is_a_file(tmp_path):
    written(tmp_path, "x.csv", "text\na\n")
    handler = functools.partial(_Files, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/x.csv"
        assert read(url, ("text",)).num_rows == 1
        problem = refused(open_source, f"{url}?raw=true", "data.train")
        server.shutdown()
    assert problem.path == "data.train"
    assert problem.value == [".csv?raw=true"]
