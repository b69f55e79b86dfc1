"""What the pinned clients raise for the answers of stores, and what is read from it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import obstore
import pytest
from botocore.config import Config
from obstore.store import AzureStore, GCSStore, S3Store

from clftask.errors import AccessError, StorageError
from clftask.io import object_stores, storage_errors


class Failing(BaseHTTPRequestHandler):
    """Answers every request with one error of S3."""

    protocol_version = "HTTP/1.1"
    status, code, body = 403, "AccessDenied", b""

    def _fail(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = self.body or f"<Error><Code>{self.code}</Code></Error>".encode()
        self.send_response_only(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _fail  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


ONCE: Any = {"client_options": {"allow_http": True}, "retry_config": {"max_retries": 0}}


def s3(address: str) -> Any:
    keys = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1"}
    return S3Store("b", config={**keys, "aws_endpoint_url_s3": address}, **ONCE)


def gs(address: str) -> Any:
    names = ("client_email", "private_key", "private_key_id")
    account = {"gcs_base_url": address, "disable_oauth": True, **dict.fromkeys(names, "")}
    return GCSStore("b", config={"service_account_key": json.dumps(account)}, **ONCE)


def az(address: str) -> Any:
    keys = {"account_name": "a", "account_key": "YQ==", "endpoint": address}
    keys["use_emulator"] = "false"
    return AzureStore("b", config=keys, **ONCE)


STORES = {"s3": s3, "gs": gs, "az": az}


def answer(monkeypatch: Any, status: int, code: str) -> None:
    monkeypatch.setattr(Failing, "status", status)
    monkeypatch.setattr(Failing, "code", code)


def raised(call: Any, *arguments: Any, **named: Any) -> Any:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call(*arguments, **named)
    return caught.value


def refused(path: str, error: Exception) -> StorageError:
    with pytest.raises(StorageError) as caught, storage_errors.translate_storage_errors(path):
        raise error
    return caught.value


def calls(store: Any) -> list[Any]:
    """Return calls that stand for all requests: obstore raises for each in its own way."""
    return [
        lambda: obstore.put(store, "k", b""),
        lambda: obstore.put(store, "k", b"", mode="create"),
        lambda: obstore.get(store, "k"),
        lambda: obstore.list(store, "k").collect(),
        lambda: obstore.list_with_delimiter(store, "k"),
    ]


@pytest.mark.parametrize("scheme", STORES)
@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (403, "AccessDenied", "access denied"),
        (403, "SignatureDoesNotMatch", "access denied"),
        (400, "ExpiredToken", "access denied"),
        (404, "NoSuchBucket", "the bucket does not exist"),
        (404, "ContainerNotFound", "the bucket does not exist"),
        (404, "NoSuchKey", "does not exist"),
        (409, "OperationAborted", "too many concurrent writers"),
    ],
)
def test_every_request_names_the_code(monkeypatch, address, scheme, status, code, reason):
    answer(monkeypatch, status, code)
    for call in calls(STORES[scheme](f"http://{address}")):
        error = raised(call)
        assert storage_errors.code(error) == code
        found = refused(f"{scheme}://b/k", error)
        assert found.problems[0].allowed == reason
        assert isinstance(found, AccessError) == (reason == "access denied")


@pytest.mark.parametrize("scheme", STORES)
def test_an_answer_without_a_body_has_its_status_as_code(monkeypatch, address, scheme):
    for status, allowed in ((404, "does not exist"), (403, "access denied")):
        answer(monkeypatch, status, "")
        error = raised(obstore.head, STORES[scheme](f"http://{address}"), "k")
        assert storage_errors.code(error) == str(status)
        assert refused(f"{scheme}://b/k", error).problems[0].allowed == allowed


@pytest.mark.parametrize("scheme", STORES)
def test_a_bucket_is_missing_only_if_the_answer_names_it(monkeypatch, address, scheme):
    """A 404 of another server, at a wrong endpoint, is no empty listing."""
    store = STORES[scheme](f"http://{address}")
    _, _, _, *listings = calls(store)
    for code, body in (
        ("NoSuchBucket", b""),
        ("ContainerNotFound", b""),
        ("", b"<p>Not found</p>"),
    ):
        answer(monkeypatch, 404, code)
        monkeypatch.setattr(Failing, "body", body)
        for listing in listings:
            error = raised(listing)
            assert storage_errors.is_missing(error) is bool(code)
    problem = refused(f"{scheme}://b/k", error).problems[0]
    assert (problem.value, problem.allowed) == ("404", "does not exist")
    assert problem.remedy == "Check the path and the endpoint."
    monkeypatch.setattr(object_stores, "opened", lambda path: (store, "k"))
    assert object_stores.head(f"{scheme}://b/k") is None
    with pytest.raises(obstore.exceptions.GenericError):
        object_stores.listed(f"{scheme}://b/k")


@pytest.mark.parametrize(
    ("scheme", "status", "code", "exists", "conflicts"),
    [
        ("s3", 412, "PreconditionFailed", True, False),
        ("s3", 409, "ConditionalRequestConflict", True, True),
        ("gs", 412, "PreconditionFailed", True, False),
        ("az", 409, "BlobAlreadyExists", True, False),
        ("s3", 403, "AccessDenied", False, False),
    ],
)
def test_what_meets_a_conditional_write(
    monkeypatch, address, scheme, status, code, exists, conflicts
):
    answer(monkeypatch, status, code)
    error = raised(obstore.put, STORES[scheme](f"http://{address}"), "k", b"", mode="create")
    assert isinstance(error, obstore.exceptions.AlreadyExistsError) is exists
    assert storage_errors.is_conflict(error) is conflicts
    assert storage_errors.is_temporary(error) is conflicts


def test_a_conditional_write_without_an_answer_may_be_repeated():
    error = raised(obstore.put, s3("http://127.0.0.1:9"), "k", b"", mode="create")
    assert storage_errors.code(error) == ""
    assert storage_errors.is_temporary(error)
    problem = refused("s3://b/k", error).problems[0]
    assert problem.allowed.startswith("S3 did not answer: ")
    assert "Debug" not in problem.allowed
    assert problem.remedy == "Check AWS_ENDPOINT_URL_S3, AWS_PROFILE and the credentials."


def test_a_bucket_of_another_region(monkeypatch, address):
    answer(monkeypatch, 301, "PermanentRedirect")
    for call in calls(s3(f"http://{address}")):
        problem = refused("s3://b/k", raised(call)).problems[0]
        assert problem.allowed == "the bucket is in another region"
        assert problem.remedy == "Set AWS_REGION to its region."


def test_a_delete_that_is_refused_for_one_of_many_names_the_code(monkeypatch, address):
    refusal = b"<Error><Key>k</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    body = b"<DeleteResult>" + refusal + b"</DeleteResult>"
    monkeypatch.setattr(Failing, "body", body)
    answer(monkeypatch, 200, "")
    error = raised(obstore.delete, s3(f"http://{address}"), ["k"])
    assert storage_errors.code(error) == "AccessDenied"


def test_boto3_names_the_code(monkeypatch, address):
    answer(monkeypatch, 403, "AccessDenied")
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    once = Config(retries={"total_max_attempts": 1})
    client = boto3.session.Session().client(
        "s3", endpoint_url=f"http://{address}", config=once, **keys
    )
    error = raised(client.list_multipart_uploads, Bucket="b")
    assert storage_errors.code(error) == "AccessDenied"
    assert isinstance(refused("s3://b/k", error), AccessError)


def test_an_error_of_the_disk_has_no_code():
    error = raised(Path("/absent/file").read_bytes)
    assert storage_errors.code(error) == ""
    problem = refused("/absent/file", error).problems[0]
    assert problem.allowed == "cannot be used: No such file or directory"
