"""EC2's spot interruption notice, from a fake metadata server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import environment, free_ports

from clftask.distributed import spot_notice

NOTICE = b'{"action": "terminate", "time": "2026-11-23T08:22:00Z"}'


class Metadata(BaseHTTPRequestHandler):
    """EC2's metadata service: requires a token; 404 until there is a notice."""

    notice: bytes | None = None

    def do_PUT(self) -> None:
        is_asked = self.path == "/latest/api/token"
        has_time = "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        self._answer(200 if is_asked and has_time else 400, b"a token")

    def do_GET(self) -> None:
        notice = type(self).notice
        is_asked = self.path == "/latest/meta-data/spot/instance-action"
        if self.headers.get("X-aws-ec2-metadata-token") != "a token":
            self._answer(401, b"")
        elif is_asked and notice is not None:
            self._answer(200, notice)
        else:
            self._answer(404, b"")

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch) -> Iterator[type[Metadata]]:
    monkeypatch.setattr(spot_notice, "POLL_S", 0.05)
    kind = type("Own", (Metadata,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    with environment(
        {"AWS_EC2_METADATA_SERVICE_ENDPOINT": place, "AWS_EC2_METADATA_DISABLED": None}
    ):
        yield kind
    server.shutdown()
    server.server_close()


def told_within(told: list[datetime], seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    while not told and time.monotonic() < give_up:
        time.sleep(0.01)
    return bool(told)


def test_a_notice_is_reported_once_with_its_time(metadata):
    told: list[datetime] = []
    with spot_notice.watched(told.append):
        assert not told_within(told, 0.5)
        metadata.notice = NOTICE
        assert told_within(told, 120)
        time.sleep(0.3)
    assert told == [datetime(2026, 11, 23, 8, 22, tzinfo=UTC)]


def test_nobody_watches_once_it_is_over_or_where_metadata_are_off(metadata):
    told: list[datetime] = []
    with spot_notice.watched(told.append):
        pass
    metadata.notice = NOTICE
    with environment({"AWS_EC2_METADATA_DISABLED": "true"}), spot_notice.watched(told.append):
        assert not told_within(told, 0.5)
    assert told == []


def test_neither_a_proxy_nor_a_strange_answer_is_in_the_way(metadata):
    told: list[datetime] = []
    metadata.notice = b"<html>"
    proxy = f"http://127.0.0.1:{free_ports(1)[0]}"
    with environment({"http_proxy": proxy, "no_proxy": None}), spot_notice.watched(told.append):
        assert not told_within(told, 0.5)
        metadata.notice = NOTICE
        assert told_within(told, 120)


def test_elsewhere_nobody_answers_and_nobody_watches(monkeypatch):
    place = f"http://127.0.0.1:{free_ports(1)[0]}"
    variables = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": place, "AWS_EC2_METADATA_DISABLED": None}
    with environment(variables):
        spot_notice._watch(threading.Event(), lambda until: pytest.fail("there was no notice"))
