"""Servers between a test and its S3 server, which make trouble."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from conftest import S3Server, environment


class Unwilling(BaseHTTPRequestHandler):
    """Passes requests on to an S3 server, and answers a share of them with 503 SlowDown."""

    protocol_version = "HTTP/1.1"
    upstream = ""
    share = 0.05
    dice = random.Random(1)
    refused = 0

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.dice.random() < self.share:
            type(self).refused += 1
            self._answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
            return
        connection = http.client.HTTPConnection(self.upstream)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        self._answer(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(body)))
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Wordy(Unwilling):
    """Answers the first times that it is asked for a file with an error longer than the file."""

    share = 0.0
    times = 2
    said: Counter[str] = Counter()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        is_file = self.command == "GET" and "?" not in self.path and status < 300
        if is_file and self.said[self.path] < self.times:
            self.said[self.path] += 1
            words = b"We encountered an internal error. Please try again. " * 100
            text = b"<Error><Code>InternalError</Code><Message>" + words + b"</Message></Error>"
            super()._answer(500, {}, text)
        else:
            super()._answer(status, headers, body)


class Conflicting(Unwilling):
    """Answers the first conditional writes with 409, as S3 does while another one is under way."""

    share = 0.0
    left = 0

    def _pass_on(self) -> None:
        if self.headers.get("If-None-Match") and self.left:
            type(self).left -= 1
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer(409, {}, b"<Error><Code>ConditionalRequestConflict</Code></Error>")
        else:
            super()._pass_on()

    do_PUT = _pass_on  # noqa: N815


@contextlib.contextmanager
def between(s3: S3Server, kind: type[Unwilling]) -> Iterator[None]:
    """Put such a server in front of an S3 server."""
    kind.upstream = s3.endpoint.removeprefix("http://")
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with environment({"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.server_port}"}):
            yield
    finally:
        server.shutdown()


class Forgetful(Unwilling):
    """Carries out the first conditional writes, but hangs up instead of answering."""

    share = 0.0
    left = 0

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        if self.headers.get("If-None-Match") and self.left:
            type(self).left -= 1
            self.close_connection = True
        else:
            super()._answer(status, headers, body)
