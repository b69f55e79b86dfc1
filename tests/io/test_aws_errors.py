"""What the pinned S3 clients raise for S3's answers, and what is read from it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from pyarrow.fs import AwsStandardS3RetryStrategy, FileSelector, S3FileSystem

from clftask.errors import AccessError
from clftask.io import aws_errors

FILES = FileSelector("b/k")


class Failing(BaseHTTPRequestHandler):
    """Answers every request with one error of S3."""

    protocol_version = "HTTP/1.1"
    status, code = 403, "AccessDenied"

    def _fail(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = f"<Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()
        self.send_response_only(self.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = _fail  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def client(address: str) -> Any:
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    once = Config(retries={"total_max_attempts": 1})
    return boto3.session.Session().client(
        "s3", endpoint_url=f"http://{address}", config=once, **keys
    )


def arrow(address: str) -> Any:
    return S3FileSystem(
        access_key="a",
        secret_key="b",
        region="us-east-1",
        scheme="http",
        endpoint_override=address,
        retry_strategy=AwsStandardS3RetryStrategy(1),
    )


def answer(monkeypatch: Any, status: int, code: str) -> None:
    monkeypatch.setattr(Failing, "status", status)
    monkeypatch.setattr(Failing, "code", code)


def raised(call: Any, *arguments: Any, **named: Any) -> Any:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call(*arguments, **named)
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "exists", "conflicts"),
    [
        (412, "PreconditionFailed", True, False),
        (409, "ConditionalRequestConflict", False, True),
        (403, "AccessDenied", False, False),
    ],
)
def test_what_meets_a_conditional_write(monkeypatch, address, status, code, exists, conflicts):
    answer(monkeypatch, status, code)
    error = raised(client(address).put_object, Bucket="b", Key="k", Body=b"", IfNoneMatch="*")
    assert aws_errors.code(error) == code
    assert aws_errors.already_exists(error) is exists
    assert aws_errors.is_conflict(error) is conflicts


def test_an_answer_without_a_body_has_its_status_as_code(monkeypatch, address):
    answer(monkeypatch, 404, "NoSuchKey")
    error = raised(client(address).head_object, Bucket="b", Key="k")
    assert aws_errors.code(error) == "404"
    assert aws_errors.storage_error("s3://b/k", error).problems[0].allowed == "does not exist"


def test_the_code_of_an_upload_is_found_below_boto3s_error(monkeypatch, address, tmp_path):
    Path(tmp_path, "file").write_bytes(b"x")
    answer(monkeypatch, 403, "InvalidAccessKeyId")
    error = raised(client(address).upload_file, str(tmp_path / "file"), "b", "k")
    assert type(error).__name__ == "S3UploadFailedError"
    assert aws_errors.code(error) == "InvalidAccessKeyId"
    assert isinstance(aws_errors.storage_error("s3://b/k", error), AccessError)


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("AccessDenied", "ACCESS_DENIED"),
        ("SignatureDoesNotMatch", "SIGNATURE_DOES_NOT_MATCH"),
        ("InvalidAccessKeyId", "INVALID_ACCESS_KEY_ID"),
    ],
)
def test_pyarrow_names_a_refusal_in_its_text(monkeypatch, address, code, name):
    answer(monkeypatch, 403, code)
    error = raised(arrow(address).get_file_info, FILES)
    assert aws_errors.arrow_code(error) == name
    assert isinstance(aws_errors.storage_error_of_arrow("s3://b/k", error), AccessError)


def test_pyarrow_names_an_internal_failure_in_its_text(monkeypatch, address):
    answer(monkeypatch, 500, "InternalError")
    error = raised(arrow(address).get_file_info, FILES)
    assert aws_errors.is_internal_failure(error)
    assert not isinstance(aws_errors.storage_error_of_arrow("s3://b/k", error), AccessError)


def test_an_error_of_the_disk_has_no_code():
    error = raised(Path("/absent/file").read_bytes)
    assert (aws_errors.code(error), aws_errors.arrow_code(error)) == ("", "")
    problem = aws_errors.storage_error_of_arrow("/absent/file", error).problems[0]
    assert problem.allowed == "cannot be used: No such file or directory"
