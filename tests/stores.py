"""Servers that speak the protocols of Google Cloud Storage and Azure."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from proxy import Unwilling

# Azurite's, which are public.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Google(Unwilling):
    """The XML API of Google Cloud Storage in front of an S3 server.

    It differs in conditions, generations, signatures and the encoding of names. The emulators of
    Google Cloud Storage lack what obstore uses of it: conditions and uploads in parts.
    """

    user = ("", "")

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {k: v for k, v in self.headers.items() if k in ("range", "if-match")}
        if self.headers.get("x-goog-if-generation-match") == "0":
            headers["If-None-Match"] = "*"
        path, _, query = self.path.partition("?")
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
        url = urllib.parse.quote(urllib.parse.unquote(path))
        url += (
            "?" + urllib.parse.urlencode(pairs, quote_via=urllib.parse.quote, safe="")
            if pairs
            else ""
        )
        request = AWSRequest(self.command, f"http://{self.upstream}{url}", headers, body)
        S3SigV4Auth(Credentials(*self.user), "s3", "us-east-1").add_auth(request)
        connection = http.client.HTTPConnection(self.upstream)
        connection.request(self.command, url, body, dict(request.headers.items()))
        answer = connection.getresponse()
        self._answer(
            answer.status, dict(answer.getheaders()) | {"x-goog-generation": "1"}, answer.read()
        )
        connection.close()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815


@contextlib.contextmanager
def google_in_front_of(endpoint: str, user: tuple[str, str]) -> Iterator[dict[str, str]]:
    """Yield the environment that points to such a server."""
    Google.upstream, Google.user = endpoint.removeprefix("http://"), user
    server = ThreadingHTTPServer(("127.0.0.1", 0), Google)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        # What obstore takes for an emulator; skip_signature does not apply to writes.
        names = ("client_email", "private_key", "private_key_id")
        account = {"gcs_base_url": address, "disable_oauth": True, **dict.fromkeys(names, "")}
        yield {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account)}
    finally:
        server.shutdown()


def azurite() -> str:
    """Return the command of Azurite, or skip the test."""
    beside = Path(sys.executable).parents[1] / "node_modules" / ".bin"
    found = shutil.which("azurite-blob", path=str(beside)) or shutil.which("azurite-blob")
    if found is None:
        pytest.skip("needs azurite: npm install --prefix .venv azurite")
    return found


@contextlib.contextmanager
def azure_in(folder: Path, port: int, container: str) -> Iterator[dict[str, str]]:
    """Yield the environment that points to a new Azurite with one container."""
    command = f"{azurite()} --blobPort {port} --location {folder} --skipApiVersionCheck --silent"
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command.split(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
        )
    try:
        _create_container(f"http://127.0.0.1:{port}", container)
        yield {
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        }
    finally:
        process.kill()
        process.wait()


def _create_container(address: str, name: str) -> None:
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n"
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    text = "PUT" + "\n" * 12 + headers + resource
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    sent = {"x-ms-date": date, "x-ms-version": "2021-08-06", "Content-Length": "0"}
    sent["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    url = f"{address}/{ACCOUNT}/{name}?restype=container"
    give_up = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=sent))
            return
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)
