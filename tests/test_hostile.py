"""Files from strangers: refused with a message or used, never a traceback, a crash or a hang.

The random parts try some hundred inputs. CLFTASK_FUZZ=20000 tries as many of each, and others
on each run.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import hashlib
import json
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

import fsspec
import pyarrow as pa
import pytest
import torch
import yaml
from conftest import environment
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv as arrow_csv
from pyarrow import feather, ipc, parquet
from score_world import World
from typer.testing import CliRunner

import clftask
from clftask.cli.main import app
from clftask.commands.compare_tables import compare_tables
from clftask.commands.evaluate import decide_bundle, evaluate_bundle
from clftask.commands.inspect import inspect
from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.prepare import prepare
from clftask.errors import ClftaskError, ConfigError, DataError, JobError, StorageError
from clftask.io import filesystems, listing, storage
from clftask.messages import printable
from clftask.models import bundle, bundle_meta
from clftask.models.loading import check_base
from clftask.scoring import input
from clftask.scoring import plan as planning
from clftask.spec import Spec
from clftask.yaml_io import parse_yaml

FUZZ = int(os.environ.get("CLFTASK_FUZZ", "0"))
SECONDS = 600  # of one input; most take milliseconds


def fuzzed(max_examples: int) -> Any:
    """Bound the number of examples, unless a long run is wanted."""
    return settings(
        max_examples=FUZZ or max_examples,
        derandomize=not FUZZ,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fail if what runs here seems to take for ever."""

    def too_long(*_: object) -> None:
        raise AssertionError(f"took longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sound(call: Callable[[], Any]) -> ClftaskError | None:
    """Run a call that succeeds or is refused, in bounded time; return the refusal."""
    found = None
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except ClftaskError as error:
            found = error
    if found is not None:
        assert found.problems
        assert all(problem.path and problem.allowed for problem in found.problems)
        assert all(printable(line) == line for line in str(found).split("\n"))
        json.dumps(found.as_json(), default=str)
    return found


def run(*arguments: object) -> tuple[int, str]:
    """Run the command; return its exit code and all that it said."""
    with bounded(), environment({"CLFTASK_DEBUG": None}):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code in (0, 1, 2)
    assert "Traceback" not in result.output
    assert "internal error" not in result.output
    return result.exit_code, result.output


# ------------------------------------------------------------------ random data

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**400, 10**4000]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "a" * 5000, "\x1b[31m", "a\0b", "\ud800", "..", "../x", "/", "~nobody/x"]),
    st.sampled_from(
        ["s3://", "s3://a:b@c/d", "http://[", "zip://a::b", "nosuch://x", "pkg://a.b/c"]
    ),
    st.sampled_from(["auto", "none", "linear", "1e400", "nan", "2h", "[", "**", "(a+)+$", "x.csv"]),
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
CONFIGS = sorted(Path(__file__).parents[1].glob("jobs/configs/*.yaml"))
DOCUMENTS = [yaml.safe_load(path.read_text()) for path in CONFIGS]
JOBS: dict[str, type[Spec]] = {"train": TrainJob, "tune": TuneJob, "score": ScoreJob}
SCHEMAS = {name: job.model_json_schema() for name, job in JOBS.items()}


def kind_of(document: Any) -> type[Spec]:
    return TuneJob if "space" in document else ScoreJob if "bundle" in document else TrainJob


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in a tree."""
    pairs = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def mutated(draw: Any, documents: list[Any], most: int = 3) -> Any:
    """Return one of some JSON documents with some of its values replaced, added or removed."""
    tree = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, most))):
        found = list(places(tree))
        if not found:
            return draw(JUNK)
        *parents, last = draw(st.sampled_from(found))
        node = tree
        for parent in parents:
            node = node[parent]
        action = draw(st.sampled_from(["replace", "replace", "remove", "add", "copy"]))
        if action == "remove":
            del node[last]
        elif action == "copy":
            node[last] = copy.deepcopy(tree)
        elif action == "add" and isinstance(node, dict):
            node[draw(st.text(max_size=8))] = draw(JUNK)
        else:
            node[last] = draw(JUNK)
    return tree


@st.composite
def instances(draw: Any, schema: Any, root: Any, depth: int = 0) -> Any:
    """Return something that a JSON schema describes, more or less."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if depth > 6 or draw(st.integers(0, 30)) == 0:
        return draw(JUNK)
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return draw(instances(draw(st.sampled_from(choices)), root, depth))
    if words := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return draw(st.sampled_from(words))
    kind = schema.get("type")
    if kind == "object":
        known = schema.get("properties", {})
        chosen = [
            n for n in known if n in schema.get("required", ()) or draw(st.integers(0, 3)) == 0
        ]
        return {name: draw(instances(known[name], root, depth + 1)) for name in chosen}
    if kind == "array":
        items = schema.get("items", {})
        return [draw(instances(items, root, depth + 1)) for _ in range(draw(st.integers(0, 3)))]
    scalars = {
        "string": st.text(max_size=9),
        "integer": st.integers(0, 9),
        "boolean": st.booleans(),
    }
    return draw(scalars.get(kind, st.floats(0, 1) if kind == "number" else JUNK))


def flipped(data: bytes) -> Any:
    """Return a strategy of damaged copies: bytes changed, cut out, doubled."""

    def damage(edits: list[tuple[int, int, bytes]]) -> bytes:
        found = bytearray(data)
        for place, length, new in edits:
            start = place % (len(found) + 1)
            found[start : start + length] = new
        return bytes(found)

    ends = [b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b'"', b"\n", b"{[", b"\0"]
    new = st.binary(max_size=4) | st.sampled_from(ends)
    lengths = st.sampled_from([0, 1, 1, 1, 4, 4, 8, 100])
    return st.lists(st.tuples(st.integers(0, 2**24), lengths, new), min_size=1, max_size=6).map(
        damage
    )


# ------------------------------------------------------------------ job files


def load(job: type[Spec], document: Any) -> None:
    found = job.load(document)
    json.dumps(found.dump(), allow_nan=False)
    assert job.load(parse_yaml(found.to_yaml(), "job.yaml")) == found


@fuzzed(250)
@given(mutated(DOCUMENTS))
def test_a_mutated_job_is_read_or_refused(document: Any) -> None:
    if isinstance(document, dict):
        sound(lambda: load(kind_of(document), document))


@pytest.mark.parametrize("name", JOBS)
def test_what_a_schema_describes_is_read_or_refused(name: str) -> None:
    @fuzzed(80)
    @given(instances(SCHEMAS[name], SCHEMAS[name]))
    def check(document: Any) -> None:
        if isinstance(document, dict):
            sound(lambda: load(JOBS[name], document))

    check()


YAML_TEXT = st.text(
    st.sampled_from("ab:-?[]{}&*!|>'\"%@#, \n\t\\x0189.e~<=é\x85\u202e"), max_size=60
)
BASE = yaml.safe_dump(DOCUMENTS[0])


@pytest.mark.slow
@fuzzed(120)
@given(
    st.binary(max_size=80)
    | YAML_TEXT.map(lambda text: text.encode())
    | YAML_TEXT.map(lambda text: (BASE + text).encode())
    | flipped(BASE.encode())
)
def test_any_bytes_as_a_job(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "job.yaml")
        file.write_bytes(data)
        run("train", file, "--dry-run", "--json")
        run("inspect", file)


PATHS = st.sampled_from(
    ["training", "data.labels", "training.hf", "run", "space", "model.head", "x"]
)
OVERRIDES = st.builds("{}.{}={}".format, PATHS, st.text(max_size=6), YAML_TEXT) | st.text(
    max_size=30
)


@fuzzed(60)
@given(st.lists(OVERRIDES, max_size=3))
def test_any_override(overrides: list[str]) -> None:
    document = DOCUMENTS[0]
    sound(lambda: kind_of(document).load(document, overrides))


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
HF = "training: {hf: {x: %s}}\n"
WORDS = [
    "!!timestamp abc",
    "!!bool foo",
    "!!float ''",
    "!!int {a: b}",
    "!!binary //8=",
    "!!set {a}",
]
YAML_FILES = {
    "aliases": BOMB,
    "aliases in a field": "training:\n  hf:\n" + indent(BOMB, "    "),
    "itself": "training: {hf: &x {a: *x}}\n",
    "itself as a list": "x: &x [*x]\n",
    "deep": HF % ("[" * 300 + "]" * 300),
    "very deep": HF % ("[" * 200_000),
    "no number": HF % "1e400",
    "half a character": HF % '"\\ud800"',
    "large": "x: " + "y" * (5 << 20),
    **{word: HF % word for word in WORDS},
    "a mapping that is none": "training: {hf: !!map [1]}\n",
}


@pytest.mark.parametrize("text", YAML_FILES.values(), ids=YAML_FILES)
def test_a_job_without_end_or_sense_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(f"{BASE}\n{text}")
    with bounded():
        assert run("train", file, "--dry-run")[0] == 2


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["job.yaml", "table.csv", "table.parquet", "table.jsonl"])
def test_a_pipe_or_a_device_is_refused(
    tiny_bundle: str, tmp_path: Path, kind: str, name: str
) -> None:
    file = tmp_path / name
    os.mkfifo(file) if kind == "pipe" else file.symlink_to("/dev/zero")
    command = (
        ["train", file, "--dry-run"] if name == "job.yaml" else ["evaluate", tiny_bundle, file]
    )
    with bounded():
        assert run(*command)[0] == 2


def test_a_job_from_a_pipe_that_somebody_writes_to(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, BASE.encode())
    os.close(writing)
    assert run("inspect", f"/dev/fd/{reading}.yaml")[0] == 2
    assert TrainJob.load(f"/dev/fd/{reading}").task == DOCUMENTS[0]["task"]
    os.close(reading)


# ------------------------------------------------------------------ paths

PATHS_OF_NOTHING = [
    "a\0b.csv",
    "\ud800.csv",
    "~no_such_user/x.csv",
    "x" * 300 + ".csv",
    "/x" * 3000,
]
PATHS_OF_NOTHING += [
    "",
    "s3://",
    "s3://*/x.csv",
    "zip://x",
    "reference://x",
    "dir://x",
    "nosuch://x",
]
PATHS_OF_NOTHING += [
    "zip://*.csv::/etc/passwd",
    "s3://b/a**b.csv",
    "ftp://127.0.0.1:1/x.csv",
    "[!]",
]
PATHS_OF_NOTHING += [
    "http://127.0.0.1:1/x.csv",
    "file:///etc/passwd",
    "memory://none/x.csv",
    "hub:\0",
]


@pytest.mark.parametrize("path", PATHS_OF_NOTHING, ids=lambda path: ascii(path)[:30])
def test_a_path_of_nothing_is_refused(tiny_bundle: str, s3: Any, path: str) -> None:
    for call in (
        lambda: evaluate_bundle(tiny_bundle, path, print),
        lambda: evaluate_bundle(path, "x.csv", print),
        lambda: inspect(path),
        lambda: storage.check_writable(filesystems.absolute(path or "\0"), "run.storage"),
        lambda: prepare(train_job(path or "none.csv")),
    ):
        error = sound(call)
        assert error is None or error.exit_code == 2
    assert sound(lambda: inspect(path)) is not None


def test_without_credentials_nothing_is_waited_for() -> None:
    gone = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE")
    nowhere = {"AWS_SHARED_CREDENTIALS_FILE": "/nowhere", "AWS_CONFIG_FILE": "/nowhere"}
    variables = {**dict.fromkeys(gone), **nowhere, "AWS_EC2_METADATA_DISABLED": "true"}
    with environment(variables), bounded(), pytest.raises(StorageError, match="no credentials"):
        storage.exists("s3://bucket/key")


@pytest.mark.parametrize(
    "pattern", ["", "/**/*.csv", "/**/**/**/**/**/**/**/*.csv", "/**/*/**/*/**/t.csv"]
)
def test_links_in_circles_and_many_stars_find_each_file_once(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "top"
    (folder / "n" / "/".join("d" * 25)).mkdir(parents=True)
    (folder / "n" / "d" / "t.csv").write_text("text\na\n")
    for name in "abc":
        (folder / "n" / name).symlink_to("..")
    with bounded():
        found = listing.expand(f"{folder}{pattern}")
    assert [os.path.realpath(path) for path in found] == [f"{folder}/n/d/t.csv"]


def test_a_linked_folder_is_data(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.csv").write_text("text\na\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "real")
    found = [f"{tmp_path}/data/link/x.csv"]
    assert (
        listing.expand(f"{tmp_path}/data") == listing.expand(f"{tmp_path}/data/**/*.csv") == found
    )


def test_stars_cost_little_on_s3(s3: Any) -> None:
    storage.put(f"{s3.bucket}/stars/{'a' * 200}.csv", b"x")
    with bounded():
        assert listing.expand(f"{s3.bucket}/stars/{'*a' * 30}b.csv") == []
        assert len(listing.expand(f"{s3.bucket}/stars/{'*a' * 30}.csv")) == 1


class _Leading(MemoryFileSystem):
    """Lists names that lead out of the folder that is asked for."""

    protocol = "leading"

    def isdir(self, path: str) -> bool:
        return True

    def find(self, path: str, **_: Any) -> dict[str, Any]:
        names = [f"{path}/config.json", f"{path}/../../stolen"]
        return {name: {"name": name, "type": "file", "size": 1} for name in names}

    def _open(self, path: str, *_: Any, **__: Any) -> Any:
        import io

        return io.BytesIO(b"{}")


def test_a_download_stays_in_its_folder(tmp_path: Path) -> None:
    fsspec.register_implementation("leading", _Leading, clobber=True)
    with pytest.raises(StorageError, match="names that point outside it"):
        storage.download("leading://model", str(tmp_path / "a" / "b" / "c"))
    assert list(tmp_path.iterdir()) == []


def test_an_archive_is_not_unpacked(tiny_base: Path, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "base.zip", "w") as archive:
        archive.writestr("../../stolen", "x")
    for call in (
        lambda: TrainJob.load(DOCUMENTS[0], [f"model.base=zip://::{tmp_path}/base.zip"]),
        lambda: bundle.fetch(f"zip://::{tmp_path}/base.zip", str(tmp_path / "a" / "b")),
    ):
        error = sound(call)
        assert error is not None
        assert "nested URLs are not supported" in str(error)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["base.zip"]


@pytest.mark.parametrize("base", ["pkg://stranger.inner/model", "pkg://json//etc", "pkg:///etc"])
def test_a_package_is_found_without_being_imported(
    tmp_path: Path, base: str, monkeypatch: Any
) -> None:
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "__init__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    from clftask.config.train import ModelSpec

    with pytest.raises(ConfigError, match=r"model\.base"):
        check_base(ModelSpec(base=base))
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------ tables


def train_job(path: Any, **labels: Any) -> TrainJob:
    document = {
        "task": "multilabel",
        "data": {
            "train": str(path),
            "text": "text",
            "id": "id",
            "labels": {"kind": "list", "column": "tags"},
        },
        "model": {"base": "/none"},
    }
    document["data"]["labels"] |= labels
    if str(path).endswith((".csv", ".tsv")):
        document |= {"task": "multiclass"}
        document["data"]["labels"] = {"kind": "class", "column": "label"}
    return TrainJob.load(document)


def scored(path: Path, meta: Any) -> None:
    """Plan a scoring job on a table and read its shards."""
    columns = {"text": "text", "id": "id", "keep": ["source"]}
    settings = {
        "input": {"path": str(path), **columns},
        "output": {"path": str(path.parent / "out")},
    }
    job = ScoreJob.load({"bundle": "/none", **settings, "shard_rows": 7})
    plan = planning.plan(job, meta).plan
    for shard in input.read_shards(plan, plan.shards, job.input.recipe(meta.text)):
        shard.table.validate(full=True)


FORMATS: dict[str, Callable[[pa.Table, Path], Any]] = {
    "a.parquet": lambda table, file: parquet.write_table(table, file),
    "b.parquet": lambda table, file: parquet.write_table(
        table, file, compression="none", use_dictionary=False
    ),
    "a.feather": lambda table, file: feather.write_feather(table, file, "uncompressed"),
    "a.csv": lambda table, file: arrow_csv.write_csv(table.drop_columns(["tags"]), file),
    "a.jsonl": lambda table, file: file.write_text(
        "".join(json.dumps(row) + "\n" for row in table.to_pylist())
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_table_is_read_or_refused(toy_table: Any, tiny_bundle: str, name: str) -> None:
    meta = bundle.read_meta(tiny_bundle)
    table = parquet.read_table(toy_table(30))
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, name)
        FORMATS[name](table, whole)
        data = whole.read_bytes()
        whole.unlink()
        (Path(folder) / "in").mkdir()
        file = Path(folder, "in", name)

        @fuzzed(60)
        @given(flipped(data))
        def check(damaged: bytes) -> None:
            file.write_bytes(damaged)
            sound(lambda: prepare(train_job(file)))
            sound(lambda: scored(file, meta))

        check()
        assert [p.name for p in Path(folder).iterdir()] == ["in"]


@pytest.mark.parametrize("opened", [ipc.new_stream, ipc.new_file])
def test_offsets_that_lead_out_of_memory_are_refused(
    toy_table: Any, tiny_bundle: str, tmp_path: Path, opened: Any
) -> None:
    """Arrow takes a file's word for where its strings are: reading them could end the process."""
    table = parquet.read_table(toy_table(30)).combine_chunks()
    text = table["text"].combine_chunks().cast(pa.string())
    sink = pa.BufferOutputStream()
    table = table.set_column(table.column_names.index("text"), "text", text)
    with opened(sink, table.schema) as writer:
        writer.write_table(table)
    data, ends = sink.getvalue().to_pybytes(), text.buffers()[1].to_pybytes()[4:]
    file = tmp_path / "a.arrow"
    file.write_bytes(data.replace(ends[:80], b"\xff\xff\xff\x3f" * 20))
    for call in (
        lambda: prepare(train_job(file)),
        lambda: scored(file, bundle.read_meta(tiny_bundle)),
    ):
        error = sound(call)
        assert error is not None
        assert "offset" in str(error).lower()


DEEP = 50_000
ROW = '{"id": "1", "text": "a b", "tags": ["a"], "source": "s", "z": %s}\n'
BIG_TABLES = {
    "deep lists.jsonl": (ROW % ("[" * DEEP + "]" * DEEP)).encode(),
    "deep objects.jsonl": (ROW % ('{"a":' * DEEP + "1" + "}" * DEEP)).encode(),
    "names.jsonl": "".join(f'{{"text": "a", "n{i}": 1}}\n' for i in range(12_000)).encode(),
    "blank.jsonl.gz": gzip.compress(b" " * (100 << 20)),
    "quotes.csv": b"id,text,label,source\n" + b'"' * (3 << 20),
    "returns.csv": b"id,text,label,source\n" + b"\r" * (3 << 20),
    "zeros.csv": bytes(3 << 20),
    "wide.csv": b",".join(b"c%d" % i for i in range(50_000)) + b"\n" + b"," * 49_999,
}


@pytest.mark.parametrize("name", BIG_TABLES)
def test_a_table_that_would_take_forever_is_refused(
    tiny_bundle: str, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    file.write_bytes(BIG_TABLES[name])
    with bounded():
        assert sound(lambda: prepare(train_job(file))) is not None
        assert sound(lambda: scored(file, bundle.read_meta(tiny_bundle))) is not None


def test_brackets_within_texts_are_not_deep(tiny_bundle: str, tmp_path: Path) -> None:
    row = {"id": "1", "text": "[{" * 5000 + '\\"', "tags": ["a"], "source": "s"}
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(row) + "\n")
    assert sound(lambda: scored(file, bundle.read_meta(tiny_bundle))) is None


def test_more_shards_than_can_be_listed_are_refused(
    tiny_bundle: str, toy_table: Any, tmp_path: Path
) -> None:
    document = {"bundle": tiny_bundle, "output": {"path": str(tmp_path / "out")}, "shard_rows": 1}
    document["input"] = {"path": str(toy_table(30)), "id": "id"}
    planning_most, planning.MAX_SHARDS = planning.MAX_SHARDS, 29
    try:
        with pytest.raises(ConfigError, match="shard_rows: makes more than 29 shards of 30 rows"):
            planning.plan(ScoreJob.load(document), bundle.read_meta(tiny_bundle))
    finally:
        planning.MAX_SHARDS = planning_most


PATTERNS = {"^(a+)+$": "aaaa", "(a|a)*!": "", "x*x*x*x*x*x*x*x*y": ""}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_takes_no_longer_than_its_columns(tmp_path: Path, pattern: str) -> None:
    names = ["a" * 40 + "!", "a" * 40, "aa", "x" * 5000]
    file = tmp_path / "wide.parquet"
    parquet.write_table(pa.table({"text": ["b"], **{name: [1] for name in names}}), file)
    job = {
        "task": "multilabel",
        "model": {"base": "/none"},
        "data": {"train": str(file), "text": "text"},
    }
    job["data"]["labels"] = {"kind": "indicators", "pattern": pattern}  # type: ignore[index]
    with bounded():
        sound(lambda: prepare(TrainJob.load(job)))


@pytest.mark.parametrize(
    "pattern", ["(", "(" * 5000, "a{2,1}", "((a{1000}){1000}){1000}", "(?!x)", r"\Z"]
)
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    labels = {"kind": "indicators", "pattern": pattern}
    document = {
        "task": "multilabel",
        "model": {"base": "/x"},
        "data": {"train": "x.csv", "text": "t"},
    }
    document["data"]["labels"] = labels  # type: ignore[index]
    error = sound(lambda: TrainJob.load(document))
    assert error is not None
    assert error.problems[0].path == "data.labels"


@fuzzed(40)
@given(st.data())
def test_a_damaged_dataset_is_read_or_refused(data: Any) -> None:
    import datasets

    rows = {"id": ["1", "2"], "text": ["a", "b"], "tags": [["x"], ["y"]], "source": ["s", "t"]}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "saved")
        datasets.disable_progress_bars()
        datasets.Dataset.from_dict({k: v * 8 for k, v in rows.items()}).save_to_disk(place)
        file = data.draw(st.sampled_from(sorted(place.iterdir())))
        if file.suffix == ".json" and data.draw(st.booleans()):
            file.write_text(json.dumps(data.draw(mutated([json.loads(file.read_text())]))))
        else:
            file.write_bytes(data.draw(flipped(file.read_bytes())))
        sound(lambda: prepare(train_job(place)))


# ------------------------------------------------------------------ bundles


def sealed(folder: Path) -> None:
    """Make a bundle's fingerprints those of its files, as whoever changes it can."""
    content = json.loads((folder / bundle.META).read_text())
    files = [
        f for f in sorted(folder.iterdir()) if f.is_file() and f.name not in bundle._NOT_HASHED
    ]
    content["files"] = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    with contextlib.suppress(ClftaskError):
        content["fingerprint"] = bundle._fingerprint(bundle_meta.BundleMeta.load(content))
    (folder / bundle.META).write_text(json.dumps(content))


def use(folder: Path) -> None:
    scorer = clftask.load(str(folder), precision="fp32")
    scorer.predict(["fast audio tool " * 40, "a"])


def test_a_bundle_without_a_padding_token_is_refused(tiny_bundle: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": None}))
    sealed(folder)
    with pytest.raises(DataError, match="without a padding token"):
        use(folder)


@pytest.mark.slow
@fuzzed(60)
@given(st.data())
def test_a_mutated_bundle_is_used_or_refused(tiny_bundle: str, data: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(tiny_bundle, Path(place, "bundle")))
        name = data.draw(
            st.sampled_from([bundle.META, bundle.META, "config.json", "tokenizer_config.json"])
        )
        content = data.draw(mutated([json.loads((folder / name).read_text())]))
        (folder / name).write_text(json.dumps(content))
        if isinstance(json.loads((folder / bundle.META).read_text()), dict):
            sealed(folder)
        sound(lambda: use(folder))
        sound(lambda: inspect(str(folder)))
        assert [p.name for p in Path(place).iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "clftask.json"]
)
def test_a_damaged_file_of_a_bundle_is_used_or_refused(tiny_bundle: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(tiny_bundle, Path(place, "bundle")))
        whole = {file.name: file.read_bytes() for file in folder.iterdir()}

        @fuzzed(15)
        @given(flipped(whole[name][:20_000]))
        def check(damaged: bytes) -> None:
            for file, content in whole.items():
                (folder / file).write_bytes(content)
            (folder / name).write_bytes(damaged + whole[name][20_000:])
            if name != bundle.META:
                sealed(folder)
            sound(lambda: use(folder))

        check()


def edit(name: str, **values: Any) -> Callable[[Path], Any]:
    """Return what changes entries of a JSON file; `a__b` stands for an entry within."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        for path, value in values.items():
            *parents, last = path.split("__")
            node = content
            for parent in parents:
                node = node[parent]
            node[last] = value
        (folder / name).write_text(json.dumps(content))

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(
        {"classifier.weight": _Touch(str(folder.parent / "ran"))}, folder / "pytorch_model.bin"
    )


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (self.path,))


def plainly_pickled(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def piped(folder: Path) -> None:
    (folder / bundle.META).unlink()
    os.mkfifo(folder / bundle.META)


def linked(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/passwd")


META, CONFIG = bundle.META, "config.json"
CODE = {"AutoModelForSequenceClassification": "evil.Evil", "AutoConfig": "evil.Config"}
PLATT = {"kind": "platt", "shift": 0.0, "maps": None, "is_folded": False}
SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickled weights": (pickled, "must be safetensors|is missing"),
    "plain weights in a pickle": (plainly_pickled, "model.safetensors is missing"),
    "code": (edit(CONFIG, auto_map=CODE, model_type="evil"), "needs remote code"),
    "a kernel": (edit(CONFIG, attn_implementation="evil/kernel"), "needs remote code"),
    "another kernel": (edit(CONFIG, _attn_implementation="evil/kernel"), "needs remote code"),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "contains an adapter"),
    "a million layers": (edit(CONFIG, num_hidden_layers=10**6), "more layers than the weights"),
    "a layer more": (edit(CONFIG, num_hidden_layers=3), "lacks 16 of its own weights"),
    "a huge width": (edit(CONFIG, hidden_size=10**9), "cannot be opened"),
    "quantised": (edit(CONFIG, quantization_config={"quant_method": "awq"}), "cannot be opened"),
    "an unknown activation": (edit(CONFIG, hidden_act="os.system"), "cannot be opened"),
    "no model": (edit(CONFIG, model_type="none"), "cannot be opened"),
    "a link": (linked, "config.json is damaged"),
    "deep JSON": (lambda f: (f / CONFIG).write_text("[" * 100_000), "config.json is damaged"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "contains no tokenizer files"),
    "half a tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be opened"),
    "other labels": (edit(META, label_names=["a", "b"]), "labels or positions do not match"),
    "labels twice": (edit(META, label_names=["a", "a", "b"]), "label_names must be distinct"),
    "one label": (edit(META, label_names=["a"]), "at least 2 items"),
    "no length": (edit(META, max_length=0), "greater than or equal to 4"),
    "a length that the model lacks": (edit(META, max_length=1000), "labels or positions"),
    "a huge stride": (edit(META, truncation={"kind": "windows", "stride": 10**9}), "stride"),
    "a negative scale": (
        edit(META, decision__calibration={**PLATT, "scale": -1.0}),
        "greater than 0",
    ),
    "too few scales": (
        edit(META, decision__calibration={**PLATT, "scale": [1.0]}),
        "as many labels",
    ),
    "too few thresholds": (edit(META, decision__threshold=[0.5, 0.5]), "as many labels"),
    "no threshold": (edit(META, decision__threshold=[]), "as many labels"),
    "falling maps": (
        edit(
            META,
            decision__calibration={**PLATT, "scale": 1.0, "maps": [[[0.9, 0.1], [0.1, 1]]] * 3},
        ),
        "must rise",
    ),
    "a job without depth": (edit(META, job__x=json.loads("[" * 90 + "]" * 90)), "nested more than"),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_bundle_is_refused(
    tiny_bundle: str, tmp_path: Path, spoil: Any, words: str
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    spoil(folder)
    sealed(folder)
    with bounded(), pytest.raises(DataError, match=words) as caught:
        use(folder)
    assert caught.value.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


UNSEALED = {
    "a pipe": piped,
    "a list": lambda folder: (folder / META).write_text("[]"),
    "deep": lambda folder: (folder / META).write_text("[" * 100_000),
    "no number": lambda folder: (folder / META).write_text('{"max_length": NaN}'),
    "a huge number": lambda folder: (folder / META).write_text(f'{{"max_length": {"9" * 5000}}}'),
    "other bytes": lambda folder: (folder / META).write_bytes(b"\xff\xfe{\x00"),
    "files elsewhere": edit(META, files={"../../etc/passwd": "0" * 64}),
}


@pytest.mark.parametrize("spoil", UNSEALED.values(), ids=UNSEALED)
def test_a_bundle_of_another_kind_is_refused(tiny_bundle: str, tmp_path: Path, spoil: Any) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    spoil(folder)
    for command in ("inspect", "evaluate"):
        arguments = [folder] if command == "inspect" else [folder, "x.csv"]
        assert run(command, *arguments)[0] == 2


def test_a_link_beside_a_bundle_is_not_written_through(
    tiny_bundle: str, toy_table: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    edit(META, job__data__labels__column="tags")(folder)
    sealed(folder)
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for file in list(folder.iterdir()):
        file.with_name(f".tmp-{file.name}").symlink_to(mine)
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(mine)
    decide_bundle(str(folder), str(toy_table(40)), ["decision.threshold=0.3"], None, print)
    assert mine.read_text() == "mine"
    assert "classifier with 3 labels" in (folder / "README.md").read_text()


def test_pickled_weights_of_a_base_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    from clftask.config.train import ModelSpec

    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    pickled(folder)
    with pytest.raises(ConfigError, match=r"model\.safetensors is missing"):
        check_base(ModelSpec(base=str(folder)))
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("text", ["[", "[1]", '"x"'])
def test_damaged_figures_do_not_stop_a_decision_halfway(
    tiny_bundle: str, toy_table: Any, tmp_path: Path, text: str
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    (folder / "metrics.json").write_text(text)
    before = (folder / META).read_bytes()
    options = [f"decision.{name}" for name in ("threshold=0.3", "calibration=none")]
    table = str(toy_table(40))
    edit(META, job__data__labels__column="tags")(folder)
    sealed(folder)
    error = sound(lambda: decide_bundle(str(folder), table, options, str(tmp_path / "out"), print))
    assert error is not None
    assert "metrics.json: is damaged" in str(error)
    assert before != b""
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------ books and run folders


@pytest.fixture(scope="module")
def table(tiny_bundle: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole score table, whose input lies beside it."""
    folder = tmp_path_factory.mktemp("table")
    world = World(folder, tiny_bundle)
    world.write("a.parquet", 35, text=["a tool"] * 9 + [None] + ["a tool"] * 25)
    world.run(max_bad_rows=0.1)
    (folder / "job.json").write_text(json.dumps(world.document))
    return folder


def look(folder: Path) -> None:
    document = json.loads((folder / "job.json").read_text())
    place = str(folder / "out")
    sound(lambda: inspect(place))
    sound(lambda: inspect(place, verify=True))
    sound(lambda: compare_tables(place, place, []))
    job = ScoreJob.load(document | {"output": {"path": place}})
    sound(lambda: planning.plan(job, bundle.read_meta(document["bundle"])))


BOOKS = ["_plan.json", "_manifest.json", "_receipts/part-00001.json", "part-00001.parquet"]


@pytest.mark.parametrize("name", BOOKS)
def test_damaged_books_are_read_or_refused(table: Path, name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(table, Path(place, "table")))
        file = folder / "out" / name
        whole = file.read_bytes()
        damaged = flipped(whole)
        if name.endswith(".json"):
            damaged |= mutated([json.loads(whole)]).map(lambda data: json.dumps(data).encode())

        @fuzzed(40)
        @given(damaged)
        def check(data: bytes) -> None:
            file.write_bytes(data)
            look(folder)

        check()
        assert [p.name for p in Path(place).iterdir()] == ["table"]


def test_a_plan_whose_id_is_no_name_is_refused(table: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(table / "out", tmp_path / "out"))
    plan = json.loads((folder / "_plan.json").read_text())
    plan["settings"]["input.id"] = {"a": 1}
    (folder / "_plan.json").write_text(json.dumps(plan))
    with pytest.raises(DataError, match=r"an invalid input\.id"):
        compare_tables(str(folder), str(folder), [])


def test_a_manifest_names_only_its_own_parts(table: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(table / "out", tmp_path / "out"))
    manifest = json.loads((folder / "_manifest.json").read_text())
    manifest["parts"][0]["name"] = "../in/a.parquet"
    (folder / "_manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"_manifest\.json: is damaged"):
        compare_tables(str(folder), str(folder), [])


TRIAL = {
    "number": 0,
    "picks": {"training.learning_rate": 0.1},
    "params": {"training.learning_rate": 0.1},
    "seed": 42,
    "state": "finished",
    "evaluations": [{"epoch": 1, "step": 3, "seconds": 1.0, "metrics": {"micro_f1": 0.5}}],
}
SEARCH = next(
    document for document in DOCUMENTS if "space" in document and isinstance(document["train"], str)
)
RECORD = {"step": 3, "loss": 0.5}


@pytest.mark.slow
@fuzzed(60)
@given(
    name=st.sampled_from(["job.yaml", "metrics.jsonl", "search.yaml", "trials/0000/trial.json"]),
    data=st.data(),
)
def test_a_mutated_run_folder_is_read_or_refused(name: str, data: Any) -> None:
    train = DOCUMENTS[0]
    contents = {"job.yaml": train, "metrics.jsonl": RECORD}
    if name.startswith(("search", "trials")):
        contents |= {"search.yaml": {**SEARCH, "train": train}, "trials/0000/trial.json": TRIAL}
    with tempfile.TemporaryDirectory() as folder:
        for path, content in contents.items():
            new = data.draw(mutated([content])) if path == name else content
            text = json.dumps(new).encode()
            file = Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data.draw(st.just(text) | flipped(text)) if path == name else text)
        run("inspect", folder)


def test_a_search_file_that_is_a_path_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").write_text(str(CONFIGS[0]))
    assert "a job file must be a mapping" in run("inspect", tmp_path)[1]


# ------------------------------------------------------------------ the terminal


def test_names_steer_no_terminal(tiny_bundle: str, tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07\x1b[31mred\u202e[/bold][red]"
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    edit(META, label_names=[evil, "b", "c"], metrics={evil: {evil: 0.5}}, versions={evil: evil})(
        folder
    )
    edit(META, job__data__labels__column="tags")(folder)
    sealed(folder)
    columns = {"id": ["1"], "text": ["a b"], "tags": [[evil]], "source": ["s"], evil: [1]}
    parquet.write_table(pa.table(columns), tmp_path / "table.parquet")
    parquet.write_table(pa.table({evil: [1]}), tmp_path / "others.parquet")
    said = [
        run("inspect", folder),
        run("evaluate", folder, tmp_path / "table.parquet"),
        run("evaluate", folder, tmp_path / "others.parquet"),
        run("evaluate", folder, tmp_path / f"{evil}.csv"),
        run("inspect", folder, "--json"),
    ]
    assert [code for code, _ in said] == [0, 0, 2, 2, 0]
    for _, output in said:
        assert not set(output) & set("\x1b\x07\x9b\u202e")
    assert "\\x1b[31mred\\u202e[/bold]" in said[2][1]


def test_names_of_megabytes_are_cut(tiny_bundle: str, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x" * (1 << 20): [1]}), tmp_path / "a.parquet")
    code, output = run("evaluate", tiny_bundle, tmp_path / "a.parquet")
    assert code == 2
    assert len(output) < 30_000


def test_a_bad_row_in_a_message_is_of_one_line() -> None:
    error = JobError(clftask.errors.Problem("a\nerror: b", "c\nd", "e\rf"))
    assert str(error) == "a\\nerror: b: e\\rf (found 'c\\nd')."
