"""Hostile job files and paths: refused in bounded time, in words."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from textwrap import indent
from typing import Any

import fsspec
import pytest
import yaml
from conftest import environment
from fsspec.implementations.memory import MemoryFileSystem
from hostile_input import DOCUMENTS, JUNK, bounded, flipped, fuzzed, mutated, run, sound, train_job
from hypothesis import given
from hypothesis import strategies as st

from clftask.commands.evaluate import evaluate_bundle
from clftask.commands.inspect import inspect
from clftask.config.score import ScoreJob
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.prepare import prepare
from clftask.errors import ConfigError, StorageError
from clftask.io import filesystems, listing, storage
from clftask.models import bundle
from clftask.models.base_checks import check_base
from clftask.spec import Spec
from clftask.yaml_io import parse_yaml

# ------------------------------------------------------------------ random data

JOBS: dict[str, type[Spec]] = {"train": TrainJob, "tune": TuneJob, "score": ScoreJob}
SCHEMAS = {name: job.model_json_schema() for name, job in JOBS.items()}


def kind_of(document: Any) -> type[Spec]:
    return TuneJob if "space" in document else ScoreJob if "bundle" in document else TrainJob


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


# ------------------------------------------------------------------ job files


def load(job: type[Spec], document: Any) -> None:
    found = job.load(document)
    json.dumps(found.dump(), allow_nan=False)
    assert job.load(parse_yaml(found.to_yaml(), "job.yaml")) == found


@fuzzed(120)
@given(mutated(DOCUMENTS))
def test_a_mutated_job_is_read_or_refused(document: Any) -> None:
    if isinstance(document, dict):
        sound(lambda: load(kind_of(document), document))


@pytest.mark.parametrize("name", JOBS)
def test_what_a_schema_describes_is_read_or_refused(name: str) -> None:
    @fuzzed(40)
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


@fuzzed(30)
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
    from clftask.config.sections import ModelSpec

    with pytest.raises(ConfigError, match=r"model\.base"):
        check_base(ModelSpec(base=base))
    assert not (tmp_path / "ran").exists()
