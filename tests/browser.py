"""What a browser makes of a page: read by a parser, or drawn by a headless Chromium."""

import json
import os
import select
import subprocess
import time
from contextlib import contextmanager, suppress
from html.parser import HTMLParser

_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
_PATIENCE_S = 600


class Page(HTMLParser):
    """What a browser would make of it: text, rows of tables, scripts, and what it would fetch."""

    VOID = {"meta", "link", "br", "img", "input"}

    def __init__(self, source):
        super().__init__()
        self.open, self.ids, self.links, self.rows, self.scripts = [], [], [], [], []
        self.tags, self.words = set(), []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[name] for name in ("src", "href") if name in found]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        elif self.open and self.open[-1] != "style":
            self.words.append(data)
            if {"td", "th"} & set(self.open):
                self.rows[-1][-1] += data.strip()

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


class Tab:
    """One page of Chromium, driven through its debugging pipe, and what it complained about."""

    def __init__(self, pipes):
        self.read_end, self.write_end = pipes
        self.number, self.rest, self.events, self.session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def open(self, path, width=1100, height=900, is_dark=False):
        """Load a local file, and wait until it has been laid out."""
        is_phone = width < 600
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}
        self.call("Emulation.setDeviceMetricsOverride", **sizes)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._take()
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))")

    def run(self, script):
        """Return what a script comes to; promises are awaited."""
        options = {"awaitPromise": True, "returnByValue": True}
        found = self.call("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    @property
    def complaints(self):
        """Uncaught exceptions, errors on the console, and what the policy refused."""
        found = []
        for event in self.events:
            kind, about = event["method"], event["params"]
            is_bad = (
                kind == "Runtime.exceptionThrown"
                or (kind == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"))
                or (kind == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"))
            )
            found += [about] if is_bad else []
        return found

    def call(self, method, **params):
        """Send a command and wait for its answer; events on the way are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._take()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def _take(self):
        while b"\0" not in self.rest:
            assert select.select([self.read_end], [], [], _PATIENCE_S)[0], "no answer"
            part = os.read(self.read_end, 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message


@contextmanager
def chromium(folder, program="chromium"):
    """Start a browser whose profile lies in a folder, and give its tab."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    command = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    options = [*_OPTIONS, f"--user-data-dir={folder}"]
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", program, *options],
        pass_fds=(theirs_in, theirs_out),
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Tab((ours_in, ours_out))
    finally:
        os.close(ours_out)  # the browser ends with its pipe
        os.close(ours_in)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        time.sleep(0.2)  # its children still write to the profile
