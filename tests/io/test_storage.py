from __future__ import annotations

import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from conftest import environment
from fsspec.implementations.memory import MemoryFileSystem
from stores import Google
from tenacity import RetryCallState, Retrying

from clftask.errors import Problem, StorageError
from clftask.io import listing, object_stores, storage


@pytest.fixture(params=["local", "s3", "gs", "az"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder, on disk and in each object store."""
    if request.param == "local":
        return str(tmp_path / "place")
    found = request.getfixturevalue(request.param)
    return f"{getattr(found, 'bucket', found)}/{uuid.uuid4().hex}"


def refused(call: Any, *arguments: Any) -> Problem:
    with pytest.raises(StorageError) as caught:
        call(*arguments)
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    return problem


def names_below(folder: str) -> list[str]:
    return [file.path.removeprefix(folder) for file in listing.list_files(folder)]


def fill(folder: str, *names: str) -> None:
    for name in names:
        storage.put(f"{folder}/{name}", name.encode())


# ------------------------------------------------------------------ both places


@pytest.mark.parametrize("data", [b"", b"hello", bytes(range(256)) * 40_000])
def test_what_is_put_is_read(place: str, data: bytes) -> None:
    storage.put(f"{place}/a/b.bin", data)
    assert storage.read_bytes(f"{place}/a/b.bin") == data


def test_put_replaces(place: str) -> None:
    storage.put(f"{place}/x", b"long before")
    storage.put(f"{place}/x", b"after")
    assert storage.read_bytes(f"{place}/x") == b"after"
    assert listing.list_files(place) == [listing.FileInfo(f"{place}/x", 5)]


def test_put_if_absent_creates_once(place: str) -> None:
    assert storage.put_if_absent(f"{place}/x", b"first")
    assert not storage.put_if_absent(f"{place}/x", b"second")
    assert storage.read_bytes(f"{place}/x") == b"first"
    assert names_below(place) == ["/x"]


def test_put_if_absent_gives_up_after_some_attempts_or_a_minute() -> None:
    """obstore itself repeats requests without a connection: each attempt may take long."""
    state = RetryCallState(Retrying(), None, (), {})
    for attempts, seconds, gives_up in ((7, 59, False), (8, 1, True), (2, 60, True)):
        state.attempt_number = attempts
        state.outcome_timestamp = state.start_time + seconds
        assert storage.GIVES_UP(state) is gives_up


def test_racing_writers_have_one_winner(place: str) -> None:
    writers = [f"writer {i}".encode() for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        won = list(pool.map(lambda data: storage.put_if_absent(f"{place}/x", data), writers))
    assert sum(won) == 1
    assert storage.read_bytes(f"{place}/x") == writers[won.index(True)]
    assert names_below(place) == ["/x"]


def test_list_files_is_recursive_sorted_and_has_sizes(place: str) -> None:
    fill(place, "b", "a/z", "a/é +%20?.txt", "_c")
    listed = listing.list_files(place)
    assert [(f.path, f.size) for f in listed] == [
        (f"{place}/_c", 2),
        (f"{place}/a/z", 3),
        (f"{place}/a/é +%20?.txt", 14),
        (f"{place}/b", 1),
    ]
    assert storage.read_bytes(listed[2].path) == "a/é +%20?.txt".encode()
    assert listing.list_files(f"{place}/absent") == []


def test_the_size_of_a_file_and_of_a_folder(place: str) -> None:
    storage.put(f"{place}/a", b"hello")
    storage.put(f"{place}/below/b", b"to you")
    assert storage.size(f"{place}/a") == 5
    assert storage.size(place) == 11
    assert refused(storage.size, f"{place}/absent").allowed == "does not exist"


def test_list_files_of_a_folder_alone(place: str) -> None:
    fill(place, "b", "a/z", "a/deep/y", "_c", "ab")
    found = [f.path.removeprefix(place) for f in listing.list_files(place, recursive=False)]
    assert found == ["/_c", "/ab", "/b"]
    inner = listing.list_files(f"{place}/a", recursive=False)
    assert inner == [listing.FileInfo(f"{place}/a/z", 3)]
    assert listing.list_files(f"{place}/absent", recursive=False) == []


def test_a_version_changes_with_the_content(place: str) -> None:
    fill(place, "x", "y")
    first = storage.version(f"{place}/x")
    assert first == storage.version(f"{place}/x")
    assert first
    storage.put(f"{place}/x", b"longer")
    second = storage.version(f"{place}/x")
    if not object_stores.is_store(place):  # the clock of a disk may stand still between two writes
        os.utime(f"{place}/x", ns=(5, 5))
        second = storage.version(f"{place}/x")
        assert second == "6-5"
    storage.put(f"{place}/x", b"LONGER")
    assert len({first, second, storage.version(f"{place}/x")}) == 3


@pytest.mark.parametrize("name", ["absent", "folder"])
def test_what_is_no_file_has_no_version(place: str, name: str) -> None:
    fill(place, "folder/x")
    problem = refused(storage.version, f"{place}/{name}")
    assert (problem.path, problem.allowed) == (f"{place}/{name}", "does not exist")
    assert problem.remedy == "Check the path."


def test_exists_and_is_folder(place: str) -> None:
    fill(place, "a/b.csv")
    found = {
        name: (storage.exists(f"{place}/{name}"), storage.is_folder(f"{place}/{name}"))
        for name in ("a/b.csv", "a", "a/b", "none")
    }
    assert found == {
        "a/b.csv": (True, False),
        "a": (True, True),
        "a/b": (False, False),
        "none": (False, False),
    }


TREE = ("1.csv", "2.csv", "n.txt", "sub/3.csv", "_plan.csv", ".h.csv", "_bad/4.csv", ".git/5.csv")
EXPANDED = {
    "1.csv": ["/1.csv"],
    "": ["/1.csv", "/2.csv", "/n.txt", "/sub/3.csv"],
    "/": ["/1.csv", "/2.csv", "/n.txt", "/sub/3.csv"],
    "sub": ["/sub/3.csv"],
    "[12].csv": ["/1.csv", "/2.csv"],
    "?.txt": ["/n.txt"],
    "s*/3.csv": ["/sub/3.csv"],
    "*.csv": ["/1.csv", "/2.csv"],
    "**/*.csv": ["/1.csv", "/2.csv", "/sub/3.csv"],
    "*.json": [],
    "absent": [],
    "absent.csv": [],
}


@pytest.mark.parametrize(("pattern", "names"), EXPANDED.items())
def test_expand(place: str, pattern: str, names: list[str]) -> None:
    fill(place, *TREE)
    found = listing.expand(f"{place}/{pattern}" if pattern else place)
    assert [path.removeprefix(place) for path in found] == names


@pytest.mark.parametrize("name", ["a[1]", "what?", "a::b", "date=2026-01-01", "two words", "日本"])
def test_names_that_look_like_more_are_names(place: str, name: str) -> None:
    file = f"{place}/{name}/x.csv"
    storage.put(file, b"text\na\n")
    for path in (place, f"{place}/{name}", file):
        assert listing.expand(path) == [file]
    assert listing.stands_for(f"{place}/{name}", f"{file}.more")


class _Azure(MemoryFileSystem):
    """Knows the two ways to write a container, as adlfs does."""

    protocol = "likeabfs"
    store: ClassVar[dict[str, Any]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        container, _, below = path.removeprefix("likeabfs://").partition("/")
        return f"{container.partition('@')[0]}/{below}".rstrip("/")


@pytest.mark.parametrize("container", ["data", "data@account.dfs.core.windows.net"])
def test_a_container_of_an_account(container: str, tmp_path: Path) -> None:
    fsspec.register_implementation("likeabfs", _Azure, clobber=True)
    _Azure().pipe("data/in/x.csv", b"text\na\n")
    folder = f"likeabfs://{container}/in"
    for path in (folder, f"{folder}/x.csv", f"{folder}/*.csv"):
        assert listing.expand(path) == [f"{folder}/x.csv"]
    storage.download(folder, str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "x.csv").read_bytes() == b"text\na\n"


@pytest.mark.parametrize("pattern", ["", "/**", "/**/*.csv", "/*/*.csv"])
def test_a_link_to_a_folder_of_a_marked_name_is_data(tmp_path: Path, pattern: str) -> None:
    storage.put(f"{tmp_path}/.versions/3/x.csv", b"text\na\n")
    storage.put(f"{tmp_path}/_old/y.csv", b"text\na\n")
    (tmp_path / "current").symlink_to(".versions/3")
    assert listing.expand(f"{tmp_path}{pattern}") == [f"{tmp_path}/current/x.csv"]


def test_a_tree_that_is_uploaded_and_downloaded_is_the_same(place: str, tmp_path: Path) -> None:
    here, back = tmp_path / "here", tmp_path / "back"
    contents = {"config.json": b"{}", "deep/er/x.bin": bytes(9_000_000), "deep/é.txt": b"\xff"}
    for name, data in contents.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(data)
    storage.upload(str(here), f"{place}/run")
    assert names_below(f"{place}/run") == ["/config.json", "/deep/er/x.bin", "/deep/é.txt"]
    storage.download(f"{place}/run", str(back))
    found = {str(p.relative_to(back)): p.read_bytes() for p in back.rglob("*") if p.is_file()}
    assert found == contents


def test_upload_replaces_and_leaves_others(place: str, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up/a").write_bytes(b"new")
    fill(place, "a", "b")
    storage.upload(str(tmp_path / "up"), place)
    assert names_below(place) == ["/a", "/b"]
    assert storage.read_bytes(f"{place}/a") == b"new"


def test_delete_takes_a_folder_or_a_file_and_nothing_beside(place: str) -> None:
    fill(place, "run/a", "run/b/c", "run-2/d", "run.txt", "e")
    storage.delete(f"{place}/run")
    storage.delete(f"{place}/e")
    storage.delete(f"{place}/absent")
    assert names_below(place) == ["/run-2/d", "/run.txt"]


def test_reading_what_is_absent_is_refused(place: str, tmp_path: Path) -> None:
    fill(place, "other")
    absent = f"{place}/absent"
    assert refused(storage.read_bytes, absent).path == absent
    assert refused(storage.download, absent, str(tmp_path / "here")).path == absent


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
def test_what_killed_writers_left_is_removed_and_no_more(place: str) -> None:
    """A file to be written to disk begins as `.tmp-…`; to S3, if large, as a multipart upload."""
    fill(place, "run/a", "run/inner/b", "other")
    for name in ("run/inner/c", "elsewhere/d"):
        leave_partial(f"{place}/{name}")
    storage.clear_partial(f"{place}/run")
    assert names_below(f"{place}/run") == ["/a", "/inner/b"]
    assert storage.exists(f"{place}/other")
    assert partial_below(place) == ["elsewhere/d"]
    storage.clear_partial(f"{place}/absent")


UPLOAD = """
import obstore, sys
from clftask.io import object_stores
def blocks():
    yield bytes(6 << 20)
    print("half", flush=True)
    sys.stdin.read()
obstore.put(*object_stores.opened(sys.argv[1]), blocks(), use_multipart=True, chunk_size=5 << 20)
"""


@pytest.mark.parametrize("place", ["s3", "gs", "az"], indirect=True)
def test_an_upload_that_is_killed_leaves_nothing_to_see(place: str) -> None:
    command = [sys.executable, "-c", UPLOAD, f"{place}/run/big"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.communicate()
    assert names_below(place) == []
    storage.clear_partial(f"{place}/run")
    if place.startswith("s3:"):
        assert partial_below(place) == []
    assert storage.put_if_absent(f"{place}/run/big", b"data")
    assert storage.read_bytes(f"{place}/run/big") == b"data"


def test_a_folder_or_a_link_that_is_named_so_hinders_nothing(tmp_path: Path) -> None:
    run, mine = tmp_path / "run", tmp_path / ".tmp-mine"
    (run / "a" / ".tmp-folder").mkdir(parents=True)
    (run / "z").mkdir()
    (run / "z" / ".tmp-half").write_text("half")
    mine.write_text("mine")
    (run / ".tmp-link").symlink_to(mine)
    (run / "up").symlink_to(tmp_path)
    storage.clear_partial(str(run))
    assert not (run / "z" / ".tmp-half").exists()
    assert mine.read_text() == "mine"


def leave_partial(path: str) -> None:
    if not object_stores.is_store(path):
        folder, _, name = path.rpartition("/")
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f".tmp-{name}-x1").write_text("half")
        return
    bucket, _, key = path.removeprefix("s3://").partition("/")
    client = object_stores.s3_client()
    found = client.create_multipart_upload(Bucket=bucket, Key=key)
    part = {"Bucket": bucket, "Key": key, "UploadId": found["UploadId"], "PartNumber": 1}
    client.upload_part(**part, Body=b"half")


def partial_below(place: str) -> list[str]:
    if not object_stores.is_store(place):
        found = [p.relative_to(place) for p in Path(place).rglob(".tmp-*")]
        return [str(p.parent / p.name.split("-")[1]) for p in found]
    bucket, _, key = place.removeprefix("s3://").partition("/")
    uploads = object_stores.s3_client().list_multipart_uploads(Bucket=bucket, Prefix=f"{key}/")
    return [upload["Key"][len(key) + 1 :] for upload in uploads.get("Uploads", [])]


def test_check_writable_leaves_nothing(place: str) -> None:
    storage.check_writable(f"{place}/run", "run.storage")
    assert not storage.exists(f"{place}/run")


@pytest.mark.parametrize(
    ("place", "variables", "remedy"),
    [
        (
            "az",
            {"AZURE_STORAGE_ACCOUNT_KEY": "d3Jvbmc="},
            "Check AZURE_STORAGE_ACCOUNT_NAME, the credentials and the roles on the container.",
        ),
        ("gs", None, "Check GOOGLE_APPLICATION_CREDENTIALS and the roles on the bucket."),
    ],
    indirect=["place"],
)
def test_strangers_of_other_stores(place, variables, remedy, s3, monkeypatch):
    monkeypatch.setattr(Google, "user", s3.reader)
    with environment(variables or {}):
        for call in (
            lambda: storage.put(f"{place}/x", b""),
            lambda: storage.put_if_absent(place, b""),
        ):
            problem = refused(call)
            assert (problem.allowed, problem.remedy) == ("access denied", remedy)
        problem = refused(storage.check_writable, f"{place}/run", "run.storage")
        assert (problem.path, problem.allowed) == ("run.storage", "access denied")


@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_a_missing_bucket_of_other_stores(place):
    url = f"{place[:2]}://no-such-bucket-here/run"
    for call in (
        lambda: storage.put(url, b""),
        lambda: storage.put_if_absent(url, b""),
        lambda: storage.check_writable(url, "run.storage"),
    ):
        problem = refused(call)
        assert problem.allowed == "the bucket does not exist"
        assert problem.remedy == "Create it, or fix the path."
    assert not storage.exists(url)
    assert listing.list_files(url) == []
