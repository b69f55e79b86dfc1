"""S3 over TLS with an authority of one's own, and writes that ask for encryption."""

from __future__ import annotations

import pickle
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import trustme
from conftest import ADMIN, environment

from clftask.distributed.session import ray_storage
from clftask.errors import ConfigError, StorageError
from clftask.io import listing, object_stores, storage


class TlsProxy:
    """Ends TLS in front of a server, with a certificate of an authority that nobody knows."""

    def __init__(self, target: str, folder: Path) -> None:
        authority, self.ca = trustme.CA(), str(folder / "ca.pem")
        authority.cert_pem.write_to_path(self.ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        host, port = target.removeprefix("http://").split(":")
        self.target, self.num_served = (host, int(port)), 0
        self.socket = context.wrap_socket(
            socket.create_server(("127.0.0.1", 0)), server_side=True, do_handshake_on_connect=False
        )
        self.url = f"https://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: ssl.SSLSocket) -> None:
        with suppress(OSError), client:
            client.do_handshake()
            self.num_served += 1
            server = socket.create_connection(self.target)
            threading.Thread(target=_pass_on, args=(server, client), daemon=True).start()
            _pass_on(client, server)


def _pass_on(source: Any, target: Any) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(s3: Any, tmp_path_factory: Any) -> Iterator[TlsProxy]:
    found = TlsProxy(s3.endpoint, tmp_path_factory.mktemp("authority"))
    yield found
    found.socket.close()


def use_all(place: str, folder: Path) -> list[str]:
    """Write and read in all the ways that clftask does; return what was written."""
    (folder / "up").mkdir()
    (folder / "up" / "big").write_bytes(bytes(9 << 20))
    storage.check_writable(place, "run.storage")
    storage.put(f"{place}/put", b"data")
    assert storage.put_if_absent(f"{place}/absent", b"data")
    storage.upload(str(folder / "up"), f"{place}/up")
    inner, fs = ray_storage(place)
    fs.create_dir(inner)
    pafs.copy_files(str(folder / "up"), inner, pafs.LocalFileSystem(), fs)
    storage.download(place, str(folder / "down"))
    found = [file.path for file in listing.list_files(place)]
    names = [".ray/big", "absent", "put", "up/big"]
    assert found == [f"{place}/{name}" for name in names]
    assert (folder / "down" / "up" / "big").read_bytes() == bytes(9 << 20)
    assert fs.open_input_file(f"{inner}/big").read() == bytes(9 << 20)
    assert storage.version(f"{place}/put") == "8d777f385d3dfec8815d20f7496026dc"
    return found


def encryption_of(path: str) -> str | None:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    head = object_stores.s3_client().head_object(Bucket=bucket, Key=key)
    return head.get("ServerSideEncryption")


# ------------------------------------------------------------------ TLS


def test_an_authority_of_the_environment(s3, proxy, tmp_path):
    with environment({"AWS_ENDPOINT_URL_S3": proxy.url, "AWS_CA_BUNDLE": proxy.ca}):
        use_all(f"{s3.bucket}/tls/{tmp_path.name}", tmp_path)
    assert proxy.num_served >= 2


def test_an_authority_of_the_profile(s3, proxy, tmp_path):
    config, keys = tmp_path / "config", tmp_path / "credentials"
    config.write_text(f"[profile private]\nca_bundle = {proxy.ca}\n")
    names = ("aws_access_key_id", "aws_secret_access_key")
    lines = [f"{name} = {key}" for name, key in zip(names, ADMIN, strict=True)]
    keys.write_text("\n".join(["[private]", *lines]))
    profile = {"AWS_CONFIG_FILE": str(config), "AWS_SHARED_CREDENTIALS_FILE": str(keys)}
    variables = {"AWS_ENDPOINT_URL_S3": proxy.url, "AWS_PROFILE": "private", **profile}
    unset = dict.fromkeys(["AWS_CA_BUNDLE", *(name.upper() for name in names)])
    with environment(variables | unset):
        use_all(f"{s3.bucket}/tls/{tmp_path.name}", tmp_path)


def test_an_unknown_authority_is_refused(s3, proxy, monkeypatch):
    monkeypatch.setitem(object_stores._RETRIES, "max_retries", 1)
    unknown = {"AWS_ENDPOINT_URL_S3": proxy.url, "AWS_CA_BUNDLE": None}
    with environment(unknown), pytest.raises(StorageError, match="certificate verify failed"):
        storage.check_writable(f"{s3.bucket}/x", "run.storage")


ENDPOINTS = [
    ({"AWS_USE_FIPS_ENDPOINT": "true"}, "https://bucket.s3-fips.us-east-1.amazonaws.com"),
    ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, "https://bucket.s3.dualstack.us-east-1.amazonaws.com"),
    ({"AWS_ENDPOINT_URL": "https://minio.example:9000"}, "https://minio.example:9000"),
    ({"AWS_ENDPOINT_URL_S3": "https://s3.x.amazonaws.com"}, "https://bucket.s3.x.amazonaws.com"),
    ({}, "https://bucket.s3.amazonaws.com"),
]


@pytest.mark.parametrize(("variables", "url"), ENDPOINTS)
def test_obstore_talks_to_the_endpoint_of_botocore(s3, variables, url):
    with environment({"AWS_ENDPOINT_URL_S3": None, **variables}):
        store, key = object_stores.opened("s3://bucket/key")
        assert (store.config["endpoint_url_s3"], key) == (url, "key")
        assert store.config["virtual_hosted_style_request"] == str("bucket" in url).lower()
        dotted, _ = object_stores.opened("s3://b.ucket/key")
        assert dotted.config["endpoint_url_s3"] == url.replace("bucket.", "")


# ------------------------------------------------------------------ encryption of what is stored


@pytest.mark.parametrize(("wanted", "found"), [("AES256", {"AES256"}), ("", {None})])
def test_every_write_is_encrypted_where_that_is_wanted(s3, tmp_path, wanted, found):
    with environment({"CLFTASK_S3_SSE": wanted}):
        written = use_all(f"{s3.bucket}/sse/{tmp_path.name}", tmp_path)
    assert {encryption_of(path) for path in written} == found


class _Kms(BaseHTTPRequestHandler):
    """Takes every write, and keeps what is asked of KMS."""

    asked: set[tuple[str, str | None, str | None]]

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        names = ("x-amz-server-side-encryption", "x-amz-server-side-encryption-aws-kms-key-id")
        self.asked.add((self.command, *(self.headers.get(name) for name in names)))
        body = b"<R><UploadId>1</UploadId></R>" if self.command == "POST" else b""
        self.send_response(204 if self.command == "DELETE" else 200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


KEY = "arn:aws:kms:eu-west-1:1:key/a-b"


@pytest.mark.parametrize(
    ("wanted", "key"), [("aws:kms", None), (f"aws:kms:{KEY}", KEY)], ids=["default", "key"]
)
def test_every_write_asks_for_the_key(s3, tmp_path, wanted, key):
    asked: set[Any] = set()
    server = HTTPServer(("127.0.0.1", 0), type("Kms", (_Kms,), {"asked": asked}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    (tmp_path / "file").write_bytes(b"data")
    with environment({"CLFTASK_S3_SSE": wanted, "AWS_ENDPOINT_URL_S3": url}):
        storage.check_writable("s3://bucket/run", "run.storage")
        storage.put("s3://bucket/x", b"data")
        assert storage.put_if_absent("s3://bucket/x", b"data")
        storage.upload(str(tmp_path), "s3://bucket/up")
    server.shutdown()
    server.server_close()
    assert asked == {("POST", "aws:kms", key), ("PUT", "aws:kms", key), ("DELETE", None, None)}


@pytest.mark.parametrize("wanted", ["aes256", "kms", "AES256:key", "aws:kms:", "aws:kms:a b"])
def test_an_unknown_encryption_is_refused(s3, wanted):
    with environment({"CLFTASK_S3_SSE": wanted}), pytest.raises(ConfigError) as caught:
        storage.put(f"{s3.bucket}/x", b"data")
    (problem,) = caught.value.problems
    assert (problem.path, problem.value) == ("CLFTASK_S3_SSE", wanted)


# ------------------------------------------------------------------ what Ray is given


def test_what_ray_stores_holds_no_key(s3):
    inner, fs = ray_storage(f"{s3.bucket}/run")
    stored = pickle.dumps(fs)
    assert inner == "clftask-test/run/.ray"
    assert not any(key.encode() in stored for key in (*s3.admin, *s3.reader))
    assert pickle.loads(stored) == fs
    assert fs.get_file_info(f"{inner}/none").type == pafs.FileType.NotFound


def test_what_s3_cannot_do_is_refused_in_words(s3):
    inner, fs = ray_storage(f"{s3.bucket}/run")
    with pytest.raises(OSError, match="S3 has no move"):
        fs.move(f"{inner}/a", f"{inner}/b")
    with pytest.raises(OSError, match="copying within S3 is not supported"):
        fs.copy_file(f"{inner}/a", f"{inner}/b")
    with pytest.raises(OSError, match="S3 has no append"):
        fs.open_append_stream(f"{inner}/a")


def test_what_ray_removes_is_gone(s3, tmp_path):
    inner, fs = ray_storage(f"{s3.bucket}/{tmp_path.name}")
    for name in ("a/x", "a/y", "b"):
        with fs.open_output_stream(f"{inner}/{name}") as stream:
            stream.write(name.encode())
    fs.delete_dir(f"{inner}/a")
    fs.delete_file(f"{inner}/b")
    assert listing.list_files(f"s3://{inner}") == []
