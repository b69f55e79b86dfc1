"""Storage that is denied, absent or in the way, or that answers with errors."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from conftest import environment
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from proxy import Conflicting, Forgetful, Wordy, between
from tenacity import stop_after_attempt
from test_storage import fill, names_below, refused

from clftask.errors import StorageError
from clftask.io import listing, object_stores, storage

NO_BUCKET = "s3://no-such-bucket-here/run"
GRANT = "Check AWS_PROFILE, the access keys and the bucket's policy."


# ------------------------------------------------------------------ S3


@pytest.mark.parametrize("put", [storage.put, storage.put_if_absent])
def test_a_missing_bucket_is_refused(s3: Any, put: Any) -> None:
    problem = refused(put, f"{NO_BUCKET}/x", b"data")
    assert problem.path == f"{NO_BUCKET}/x"
    assert problem.allowed == "the bucket does not exist"
    assert problem.remedy == "Create it, or fix the path."


def test_check_writable_names_the_field_of_a_missing_bucket(s3: Any) -> None:
    problem = refused(storage.check_writable, NO_BUCKET, "run.storage")
    assert (problem.path, problem.value) == ("run.storage", NO_BUCKET)
    assert problem.allowed == "the bucket does not exist"
    assert problem.remedy == "Create it, or fix the path."


@pytest.fixture(params=["wrong secret", "unknown key", "read only"])
def stranger(request: pytest.FixtureRequest, s3: Any, s3_user: Any) -> Iterator[str]:
    """The bucket, seen by somebody who must not write to it."""
    users = {"wrong secret": (s3.admin[0], "wrong"), "unknown key": ("who", "who")}
    with s3_user(*users.get(request.param, s3.reader)):
        yield s3.bucket


def test_a_stranger_cannot_put(stranger: str) -> None:
    for put in (storage.put, storage.put_if_absent):
        problem = refused(put, f"{stranger}/new", b"data")
        assert problem.path == f"{stranger}/new"
        assert (problem.allowed, problem.remedy) == ("access denied", GRANT)


def test_a_stranger_cannot_upload(stranger: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    problem = refused(storage.upload, str(tmp_path), f"{stranger}/new")
    assert (problem.allowed, problem.remedy) == ("access denied", GRANT)


def test_missing_permission_is_reported_before_the_start(stranger: str) -> None:
    problem = refused(storage.check_writable, f"{stranger}/run", "run.storage")
    assert (problem.path, problem.value) == ("run.storage", f"{stranger}/run")
    assert (problem.allowed, problem.remedy) == ("access denied", GRANT)


def test_the_version_on_s3_is_that_of_the_bytes(s3: Any) -> None:
    storage.put(f"{s3.bucket}/version é +.txt", b"abc")
    assert storage.version(f"{s3.bucket}/version é +.txt") == "900150983cd24fb0d6963f7d28e17f72"


def test_a_version_that_is_refused_says_so(s3: Any, s3_user: Any) -> None:
    storage.put(f"{s3.bucket}/secret", b"abc")
    with s3_user("who", "who"):
        problem = refused(storage.version, f"{s3.bucket}/secret")
    assert (problem.allowed, problem.remedy) == ("access denied", GRANT)


def test_a_reader_can_read_but_not_delete(s3: Any, s3_user: Any) -> None:
    storage.put(f"{s3.bucket}/for-reader", b"data")
    with s3_user(*s3.reader):
        assert storage.read_bytes(f"{s3.bucket}/for-reader") == b"data"
        refused(storage.delete, f"{s3.bucket}/for-reader")


def test_a_wrong_secret_is_refused_with_what_to_check_when_reading(s3: Any, s3_user: Any) -> None:
    with s3_user(s3.admin[0], "wrong"):
        problem = refused(listing.expand, f"{s3.bucket}/rows.csv")
    assert (problem.path, problem.remedy) == (f"{s3.bucket}/rows.csv", GRANT)


# ------------------------------------------------------------------ disk


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AWS_PROFILE": "absent"}, "profile (absent) could not be found"),
        ({"AWS_PROFILE": "failing"}, "retrieving credentials"),
        ({"AWS_PROFILE": "login"}, "SSO"),
        ({"AWS_ENDPOINT_URL_S3": "localhost:9000"}, "Invalid endpoint: localhost:9000"),
    ],
)
def test_an_environment_that_is_wrong_is_refused(
    tmp_path: Path, variables: dict[str, str | None], said: str
) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[profile failing]\ncredential_process = false\n[profile login]\nsso_region = us-east-1\n"
        "sso_start_url = https://example.invalid\nsso_account_id = 1\nsso_role_name = r\n"
    )
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    keys = dict.fromkeys(keys) if "AWS_PROFILE" in variables else keys
    with environment({"AWS_CONFIG_FILE": str(config), **keys, **variables}):
        for call in (storage.exists, storage.read_bytes, listing.list_files, storage.version):
            assert said in refused(call, "s3://bucket/x").allowed


class _Refusing(MemoryFileSystem):
    """Raises a class of its own, as backends on top of HTTP do."""

    protocol = "refusing"
    store: ClassVar[dict[str, Any]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return f"/{path.removeprefix('refusing://').strip('/')}"

    def _open(self, *_: Any, **__: Any) -> Any:
        raise type("HttpError", (Exception,), {})("403, Forbidden")


def test_what_a_backend_raises_is_a_refusal(tmp_path: Path) -> None:
    fsspec.register_implementation("refusing", _Refusing, clobber=True)
    _Refusing.store["/in/x"] = MemoryFile(_Refusing(), "/in/x", b"x")
    for call, path in ((storage.read_bytes, "in/x"), (storage.download, "in")):
        more = [str(tmp_path)] if call is storage.download else []
        problem = refused(call, f"refusing://{path}", *more)
        assert problem.allowed == "cannot be used: 403, Forbidden"


@pytest.mark.parametrize("below", ["file", "file/run", "file/deep/run"])
def test_a_file_in_the_way_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    problem = refused(storage.check_writable, f"{tmp_path}/{below}", "run.storage")
    assert (problem.path, problem.value) == ("run.storage", f"{tmp_path}/{below}")
    assert (
        problem.remedy == f"Choose another run.storage, or fix the permissions of {tmp_path}/file."
    )


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Root may write everywhere: be somebody else for the length of a test."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


def test_a_parent_that_cannot_be_written_is_refused(as_nobody: None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o500)
        problem = refused(storage.check_writable, f"{folder}/run", "run.storage")
        assert problem.path == "run.storage"
        Path(folder).chmod(0o700)
        storage.check_writable(f"{folder}/run", "run.storage")
        assert not list(Path(folder).iterdir())


def test_a_place_that_nobody_can_write_is_refused() -> None:
    problem = refused(storage.check_writable, "/proc/run", "run.storage")
    assert problem.remedy == "Choose another run.storage, or fix the permissions of /proc."


@pytest.mark.parametrize("url", ["hdfs://host/x", "memory://x", "https://example.org/x"])
def test_only_disk_and_object_stores_are_written_to(url: str) -> None:
    problem = refused(storage.check_writable, url, "output.path")
    assert problem.remedy == (
        "Use a local folder, or s3://bucket/prefix, gs://bucket/prefix or az://container/prefix."
    )


def test_an_unknown_scheme_is_refused() -> None:
    assert refused(storage.exists, "nosuch://x/y").path == "nosuch://x/y"


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up/taken").write_bytes(b"data")
    (tmp_path / "there/taken").mkdir(parents=True)
    refused(storage.put, f"{tmp_path}/there/taken", b"data")
    assert not storage.put_if_absent(f"{tmp_path}/there/taken", b"data")
    refused(storage.upload, f"{tmp_path}/up", f"{tmp_path}/there")
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["taken"]


def test_expiring_credentials_are_renewed_for_reading(s3, tmp_path, monkeypatch):
    """A command of the profile gives keys that end at once: each use asks for new ones."""
    admin = {"AccessKeyId": s3.admin[0], "SecretAccessKey": s3.admin[1]}
    calls = tmp_path / "calls"
    keys = json.dumps({"Version": 1, "Expiration": "SOON", **admin})
    soon = "$(date -u -d '+5 seconds' +%Y-%m-%dT%H:%M:%SZ)"
    script = tmp_path / "keys.sh"
    script.write_text(f"echo x >> {calls}\necho '{keys}' | sed \"s/SOON/{soon}/\"\n")
    config = tmp_path / "config"
    config.write_text(f"[profile renewing]\ncredential_process = sh {script}\n")
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    variables = {"AWS_CONFIG_FILE": str(config), "AWS_PROFILE": "renewing"}
    path = f"{s3.bucket}/renewed/{tmp_path.name}"
    storage.put(path, b"data")
    with environment(variables | dict.fromkeys(names)):
        assert storage.read_bytes(path) == b"data"
        before = len(calls.read_text().splitlines())
        assert storage.read_bytes(path) == b"data"
        assert len(calls.read_text().splitlines()) > before


def test_an_error_longer_than_the_file_is_tried_again(s3, tmp_path):
    path = f"{s3.bucket}/{tmp_path.name}/file"
    storage.put(path, b"short")
    with between(s3, Wordy):
        assert storage.read_bytes(path) == b"short"
        Wordy.said.clear()
        storage.download(f"{s3.bucket}/{tmp_path.name}", str(tmp_path / "down"))
    assert (tmp_path / "down" / "file").read_bytes() == b"short"
    assert sum(Wordy.said.values()) == Wordy.times


def test_an_error_that_stays_is_one(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(Wordy, "times", 1_000)
    monkeypatch.setitem(object_stores._RETRIES, "max_retries", 2)
    path = f"{s3.bucket}/{tmp_path.name}/file"
    storage.put(path, b"short")
    with between(s3, Wordy), pytest.raises(StorageError, match="cannot be used"):
        storage.read_bytes(path)


def test_a_write_that_meets_another_is_tried_again(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(Conflicting, "left", 2)
    path = f"{s3.bucket}/{tmp_path.name}/file"
    with between(s3, Conflicting):
        assert storage.put_if_absent(path, b"mine")
    assert storage.read_bytes(path) == b"mine"
    assert Conflicting.left == 0


def test_a_write_whose_answer_is_lost_counts_as_ones_own(s3, tmp_path, monkeypatch):
    path = f"{s3.bucket}/{tmp_path.name}/file"
    with between(s3, Forgetful):
        for data, is_created in ((b"mine", True), (b"theirs", False)):
            monkeypatch.setattr(Forgetful, "left", 2)
            assert storage.put_if_absent(path, data) is is_created
            assert Forgetful.left == 0
    assert storage.read_bytes(path) == b"mine"


def test_the_markers_of_folders_are_no_files(s3, tmp_path):
    """As the console of AWS makes them: empty objects whose keys end with a slash."""
    place = f"{s3.bucket}/{tmp_path.name}"
    key = place.removeprefix("s3://").partition("/")[2]
    fill(place, "run/deep/er/x", "run/empty")
    storage.put(f"{place}/run/none", b"")
    for folder in ("", "run/", "run/deep/"):
        object_stores.s3_client().put_object(Bucket="clftask-test", Key=f"{key}/{folder}")
    assert names_below(place) == ["/run/deep/er/x", "/run/empty", "/run/none"]
    assert [f.size for f in listing.list_files(f"{place}/run", recursive=False)] == [9, 0]


def test_the_account_of_an_url_of_azure(az):
    store, key = object_stores.opened("abfss://data@account.dfs.core.windows.net/a/b")
    assert (store.config["container_name"], store.config["account_name"]) == ("data", "account")
    assert key == "a/b"


def test_writes_that_always_meet_others_are_given_up(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(Conflicting, "left", 1_000)
    monkeypatch.setattr(storage, "GIVES_UP", stop_after_attempt(3))
    path = f"{s3.bucket}/{tmp_path.name}/file"
    with between(s3, Conflicting):
        problem = refused(storage.put_if_absent, path, b"mine")
    assert problem.allowed == "too many concurrent writers"
    assert Conflicting.left == 997
