"""Sends a job to a Ray cluster, shows its log and brings back its exit code."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clftask.distributed.auth import MODE, authenticate, describe_open, is_open, wrong_token
from clftask.distributed.ray_errors import is_unknown_job
from clftask.distributed.submit.package import (
    Job,
    Shipping,
    check_paths,
    command,
    environment,
    write_code,
)
from clftask.errors import ConfigError, JobError, Problem, interruption_hint
from clftask.io.tempdirs import temporary_folder

POLL_S = 1.0
PATIENCE_S = 300.0  # for a head that does not answer
ANSWER_S = 120.0  # for one answer of it
QUIET_S = 120.0  # of a log, after which its connection may be a dead one
TAIL_ATTEMPTS = 5  # to read the end of the log
LOOKS = 5  # for a job whose sending was not answered
MAX_RESULT = 4_000_000  # characters of a job's JSON
LAST_WORDS = 1000  # characters in which a job says why it ended
LACKING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'\s*$")
FIND_PACKAGES = (
    "Say --pip to install what clftask needs, or --image with an image that has it; where the "
    "nodes have it in an environment, start them with that environment activated."
)


class Cluster:
    """The job server of a cluster.

    Args:
        address: Of its dashboard: http://host:port.
        say: Takes lines for the user.

    Raises:
        ConfigError: Nobody answers there, or asks for another token.
    """

    def __init__(self, address: str, say: Callable[[str], None]) -> None:
        if not re.fullmatch(r"https?://[^/\s@]+/?", address):
            allowed = "must be the address of the cluster's dashboard, as http://host:8265"
            remedy = "See `ray dashboard cluster.yaml`, or forward port 8265 of the head node."
            shown = re.sub(r"//[^/\s]*@", "//***@", address)
            raise ConfigError(Problem("--address", shown, allowed, remedy))
        if importlib.util.find_spec("aiohttp_cors") is None:
            allowed = "needs Ray's job client, which is not installed"
            remedy = "pip install 'clftask[cluster]'"
            raise ConfigError(Problem("submit", None, allowed, remedy))
        self.address = address.rstrip("/")
        authenticate(make=False)
        with self._refused(), _without("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            logging.getLogger("ray").setLevel(logging.ERROR)  # it tells of each socket
            self.client = _client(self.address)
        if is_open(self.address):
            say(f"warning: {describe_open(f'the cluster at {self.address}')}")

    @contextmanager
    def _refused(self) -> Iterator[None]:
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError:
            raise ConfigError(wrong_token("--address", self.address)) from None
        except (ConnectionError, requests.RequestException, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            remedy = "Is the cluster up, and port 8265 of its head node reachable from here?"
            problem = Problem("--address", self.address, f"cannot be used: {reason}", remedy)
            raise ConfigError(problem) from None

    def submit(self, entrypoint: str, name: str, runtime_env: dict[str, Any]) -> SubmittedJob:
        """Send a job.

        Args:
            entrypoint: The command that the cluster runs.
            name: What the job's id begins with.
            runtime_env: Ray's; its `working_dir` is a local folder.

        Raises:
            ConfigError: The cluster refuses it, or cannot be reached.
            JobError: The connection broke off; the job may be there.
        """
        import requests

        submitted = SubmittedJob(self, f"{name}-{secrets.token_hex(4)}")
        with self._refused(), interruption_hint(submitted.hint("may have begun")):
            try:
                self.client.submit_job(
                    entrypoint=entrypoint, submission_id=submitted.id, runtime_env=runtime_env
                )
            except (requests.RequestException, RuntimeError) as error:
                if not submitted.is_there(error):
                    raise
        return submitted


def _client(address: str) -> Any:
    """Return Ray's client, which by itself would wait for an answer for ever."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, timeout=ANSWER_S, **options)

    return Client(address)


@dataclass
class SubmittedJob:
    """A job on a cluster.

    Attributes:
        cluster: Where it is.
        id: Its name there.
        log: The end of what it has said so far.
        num_shown: The characters of the log that were shown.
    """

    cluster: Cluster
    id: str
    log: str = ""
    num_shown: int = 0

    def command(self, what: str) -> str:
        """Return the command of Ray that tells of the job, or ends it."""
        mode = "RAY_AUTH_MODE=token " if os.environ.get(MODE) == "token" else ""
        return f"{mode}ray job {what} {self.id} --address {self.cluster.address}"

    def hint(self, state: str = "goes on") -> str:
        """Return how to follow and to end the job from anywhere."""
        follow, stop = self.command("logs --follow"), self.command("stop")
        return f"The job {state}. Its log: {follow}; its end: {stop}"

    def where(self) -> str:
        """Return where the log of a job that has ended is."""
        return f"Its log: {self.command('logs')}"

    def result(self, code: int) -> str | None:
        """Return the last line of the log if it is what `--json` ends with.

        Args:
            code: What the job ended with. One that was killed has said no more than its log,
                which may be JSON itself.
        """
        last = self.log.strip().rpartition("\n")[2]
        try:
            found = json.loads(last)
        except ValueError:
            return None
        if not isinstance(found, dict):
            return None
        is_result = "error" in found if code else "level" not in found
        return last if is_result else None

    def is_there(self, error: Exception) -> bool:
        """Tell whether the cluster has the job, though sending it ended with an error.

        Raises:
            JobError: It does not answer.
        """
        import requests

        for _ in range(LOOKS):  # what answered late may write it down still later
            try:
                self.cluster.client.get_job_info(self.id)
            except (requests.RequestException, RuntimeError) as answer:
                if not is_unknown_job(answer):
                    raise JobError(self._lost(error, "broke off")) from None
            else:
                return True
            time.sleep(POLL_S)
        return False

    def wait(self, show: Callable[[str], None]) -> int:
        """Show the job's log until its end.

        Returns:
            Its exit code: what the command itself gave; 1 if it never ran.

        Raises:
            JobError: The head node does not answer any more; the job may still run.
        """
        with interruption_hint(self.hint()):
            code = self._followed(show)
        if code and (lacking := LACKING.search(self.log[-LAST_WORDS:])):
            show(f"The cluster's python lacks {lacking[1]}. {FIND_PACKAGES}\n")
        return code

    def _followed(self, show: Callable[[str], None]) -> int:
        silent_since = None
        while True:
            self._tail(show)
            try:
                info = self.cluster.client.get_job_info(self.id)
            except Exception as error:  # of sockets, HTTP and Ray: all say that it is not there
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > PATIENCE_S:
                    gone = f"has not answered for {PATIENCE_S:.0f} s"
                    raise JobError(self._lost(error, gone)) from None
            else:
                silent_since = None
                if info.status.is_terminal():
                    self._show_rest(show)
                    return _exit_code(info, show)
            time.sleep(POLL_S)

    def _show_rest(self, show: Callable[[str], None]) -> None:
        """Show what the log of a job that has ended still has; its exit code counts more."""
        for _ in range(TAIL_ATTEMPTS):
            if self._tail(show):
                return
            time.sleep(POLL_S)

    def _tail(self, show: Callable[[str], None]) -> bool:
        """Show what the log has beyond what was shown; tell whether it came to its end."""

        async def run() -> bool:
            seen, log = 0, self.cluster.client.tail_job_logs(self.id)
            while True:
                try:
                    lines = await self._next(log)
                except StopAsyncIteration:
                    return True
                except Exception:  # broken off, or quiet; those of `show` are not meant
                    return False
                new = lines[max(0, self.num_shown - seen) :]
                seen += len(lines)
                self.num_shown = max(self.num_shown, seen)
                if new:
                    self.log = (self.log + new)[-MAX_RESULT:]
                    show(new)

        return asyncio.run(run())

    async def _next(self, log: AsyncIterator[str]) -> str:
        """Return the next lines; while there are none, make sure that the job's head is there.

        A log is not asked for again as long as it is: heads keep a connection that its reader
        has left until the job's next line, and take no more than a hundred.
        """
        coming = asyncio.ensure_future(anext(log))
        while not coming.done():
            await asyncio.wait([coming], timeout=QUIET_S)
            is_quiet = not coming.done()
            if is_quiet and self.cluster.client.get_job_info(self.id).status.is_terminal():
                raise TimeoutError
        return await coming

    def _lost(self, error: Exception, what: str) -> Problem:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        allowed = f"{what} ({reason}); job {self.id} may still run"
        remedy = f"Ask it later: {self.command('status')}"
        return Problem("--address", self.cluster.address, allowed, remedy)


def _exit_code(info: Any, show: Callable[[str], None]) -> int:
    code = info.driver_exit_code
    if code is None:  # it never ran, or was stopped
        show(f"{info.message or info.status}\n")
        return 1
    # A command that a signal ended is told to shells as 128 and the signal's number.
    return 128 - code if code < 0 else int(code)


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide variables that Ray would prefer to the address that is asked for."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def send(
    kind: str,
    job: Job,
    address: str,
    shipping: Shipping,
    say: Callable[[str], None],
    as_json: bool = False,
) -> SubmittedJob:
    """Send a job to a cluster.

    Args:
        kind: train, tune or score.
        job: The resolved job.
        address: Of the cluster's dashboard.
        shipping: How it finds there what it needs.
        say: Takes lines for the user.
        as_json: Whether the job's log ends with its result.

    Raises:
        ConfigError: The cluster cannot be reached, or would not find what the job names.
    """
    check_paths(job, shipping.shared)
    entrypoint = command(kind, job, shipping, as_json)
    cluster = Cluster(address, say)
    with temporary_folder() as folder:
        write_code(job, Path(folder))
        submitted = cluster.submit(entrypoint, f"clftask-{kind}", environment(folder, shipping))
    say(f"job {submitted.id} on {cluster.address}")
    return submitted
