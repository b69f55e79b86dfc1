"""Files from strangers: refused with a message or used, never a traceback, a crash or a hang.

The random parts try some hundred inputs. CLFTASK_FUZZ=20000 tries as many of each, and others
on each run: `CLFTASK_FUZZ=20000 pytest -m '' tests/hostile`.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from conftest import environment
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from clftask.cli.main import app
from clftask.config.train import TrainJob
from clftask.errors import ClftaskError
from clftask.messages import printable
from clftask.models import bundle, bundle_meta

FUZZ = int(os.environ.get("CLFTASK_FUZZ", "0"))
SECONDS = 600  # of one input; most take milliseconds


def fuzzed(max_examples: int) -> Any:
    """Bound the number of examples, unless a long run is wanted."""
    return settings(
        max_examples=FUZZ or max_examples,
        derandomize=not FUZZ,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fail if what runs here seems to take for ever."""

    def too_long(*_: object) -> None:
        raise AssertionError(f"took longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sound(call: Callable[[], Any]) -> ClftaskError | None:
    """Run a call that succeeds or is refused, in bounded time; return the refusal."""
    found = None
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call()
        except ClftaskError as error:
            found = error
    if found is not None:
        assert found.problems
        assert all(problem.path and problem.allowed for problem in found.problems)
        assert all(printable(line) == line for line in str(found).split("\n"))
        json.dumps(found.as_json(), default=str)
    return found


def run(*arguments: object) -> tuple[int, str]:
    """Run the command; return its exit code and all that it said."""
    with bounded(), environment({"CLFTASK_DEBUG": None}):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.exit_code in (0, 1, 2)
    assert "Traceback" not in result.output
    assert "internal error" not in result.output
    return result.exit_code, result.output


# ------------------------------------------------------------------ random data

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**400, 10**4000]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "a" * 5000, "\x1b[31m", "a\0b", "\ud800", "..", "../x", "/", "~nobody/x"]),
    st.sampled_from(
        ["s3://", "s3://a:b@c/d", "http://[", "zip://a::b", "nosuch://x", "pkg://a.b/c"]
    ),
    st.sampled_from(["auto", "none", "linear", "1e400", "nan", "2h", "[", "**", "(a+)+$", "x.csv"]),
)


JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


CONFIGS = sorted(Path(__file__).parents[1].glob("jobs/configs/*.yaml"))
DOCUMENTS = [yaml.safe_load(path.read_text()) for path in CONFIGS]


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in a tree."""
    pairs = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def mutated(draw: Any, documents: list[Any], most: int = 3) -> Any:
    """Return one of some JSON documents with some of its values replaced, added or removed."""
    tree = copy.deepcopy(draw(st.sampled_from(documents)))
    for _ in range(draw(st.integers(1, most))):
        found = list(places(tree))
        if not found:
            return draw(JUNK)
        *parents, last = draw(st.sampled_from(found))
        node = tree
        for parent in parents:
            node = node[parent]
        action = draw(st.sampled_from(["replace", "replace", "remove", "add", "copy"]))
        if action == "remove":
            del node[last]
        elif action == "copy":
            node[last] = copy.deepcopy(tree)
        elif action == "add" and isinstance(node, dict):
            node[draw(st.text(max_size=8))] = draw(JUNK)
        else:
            node[last] = draw(JUNK)
    return tree


def flipped(data: bytes) -> Any:
    """Return a strategy of damaged copies: bytes changed, cut out, doubled."""

    def damage(edits: list[tuple[int, int, bytes]]) -> bytes:
        found = bytearray(data)
        for place, length, new in edits:
            start = place % (len(found) + 1)
            found[start : start + length] = new
        return bytes(found)

    ends = [b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b'"', b"\n", b"{[", b"\0"]
    new = st.binary(max_size=4) | st.sampled_from(ends)
    lengths = st.sampled_from([0, 1, 1, 1, 4, 4, 8, 100])
    return st.lists(st.tuples(st.integers(0, 2**24), lengths, new), min_size=1, max_size=6).map(
        damage
    )


# ------------------------------------------------------------------ tables


def train_job(path: Any, **labels: Any) -> TrainJob:
    document = {
        "task": "multilabel",
        "data": {
            "train": str(path),
            "text": "text",
            "id": "id",
            "labels": {"kind": "list", "column": "tags"},
        },
        "model": {"base": "/none"},
    }
    document["data"]["labels"] |= labels
    if str(path).endswith((".csv", ".tsv")):
        document |= {"task": "multiclass"}
        document["data"]["labels"] = {"kind": "class", "column": "label"}
    return TrainJob.load(document)


# ------------------------------------------------------------------ bundles


def sealed(folder: Path) -> None:
    """Make a bundle's fingerprints those of its files, as whoever changes it can."""
    content = json.loads((folder / bundle.META).read_text())
    files = [
        f for f in sorted(folder.iterdir()) if f.is_file() and f.name not in bundle._NOT_HASHED
    ]
    content["files"] = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    with contextlib.suppress(ClftaskError):
        content["fingerprint"] = bundle._fingerprint(bundle_meta.BundleMeta.load(content))
    (folder / bundle.META).write_text(json.dumps(content))


def edit(name: str, **values: Any) -> Callable[[Path], Any]:
    """Return what changes entries of a JSON file; `a__b` stands for an entry within."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        for path, value in values.items():
            *parents, last = path.split("__")
            node = content
            for parent in parents:
                node = node[parent]
            node[last] = value
        (folder / name).write_text(json.dumps(content))

    return change


META, CONFIG = bundle.META, "config.json"
