"""Submits a job to a Ray cluster, follows its log and returns its exit code."""

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

from clftask.config.jobs import Job
from clftask.distributed.auth import MODE, authenticate, describe_open, is_open, wrong_token
from clftask.distributed.ray_errors import is_unknown_job
from clftask.distributed.submit.package import (
    Shipping,
    check_paths,
    command,
    environment,
    write_code,
)
from clftask.errors import ConfigError, JobError, Problem, interruption_hint
from clftask.io.tempdirs import temporary_folder

POLL_S = 1.0
PATIENCE_S = 300.0  # until a head node that does not answer counts as lost
ANSWER_S = 120.0  # timeout of one request
QUIET_S = 120.0  # without log lines, after which the connection may be dead
TAIL_ATTEMPTS = 5  # at reading the end of the log
LOOKS = 5  # checks for a job whose submission got no answer
MAX_RESULT = 4_000_000  # characters of a job's JSON result
LAST_WORDS = 1000  # characters at the end of the log that contain the error
LACKING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'\s*$")
FIND_PACKAGES = (
    "Use --pip to install the packages, or --image with an image that has them. If the nodes "
    "have them in an environment, activate it before `ray start`."
)


class Cluster:
    """The job server of a cluster.

    Args:
        address: The dashboard, as http://host:port.
        say: Receives lines for the user.

    Raises:
        ConfigError: The dashboard does not answer, or rejects the token.
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
            logging.getLogger("ray").setLevel(logging.ERROR)  # Ray logs every websocket
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
        """Submit a job.

        Args:
            entrypoint: The command that the cluster runs.
            name: Prefix of the submission id.
            runtime_env: Ray's runtime environment; its `working_dir` is a local folder.

        Raises:
            ConfigError: The cluster rejects the job or does not answer.
            JobError: The connection was lost; the job may exist.
        """
        import requests

        submitted = SubmittedJob(self, f"{name}-{secrets.token_hex(4)}")
        with self._refused(), interruption_hint(submitted.hint("may have started")):
            try:
                self.client.submit_job(
                    entrypoint=entrypoint, submission_id=submitted.id, runtime_env=runtime_env
                )
            except (requests.RequestException, RuntimeError) as error:
                if not submitted.is_there(error):
                    raise
        return submitted


def _client(address: str) -> Any:
    """Return Ray's job client with a timeout: `JobSubmissionClient` has none."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, timeout=ANSWER_S, **options)

    return Client(address)


@dataclass
class SubmittedJob:
    """A job on a cluster.

    Attributes:
        cluster: The cluster.
        id: The submission id.
        log: The end of its log so far.
        num_shown: Number of characters of the log that were shown.
    """

    cluster: Cluster
    id: str
    log: str = ""
    num_shown: int = 0

    def command(self, what: str) -> str:
        """Return a `ray job` command for the job."""
        mode = "RAY_AUTH_MODE=token " if os.environ.get(MODE) == "token" else ""
        return f"{mode}ray job {what} {self.id} --address {self.cluster.address}"

    def hint(self, state: str = "continues") -> str:
        """Return the commands that follow and stop the job."""
        follow, stop = self.command("logs --follow"), self.command("stop")
        return f"The job {state}. Follow its log: {follow}; stop it: {stop}"

    def where(self) -> str:
        """Return the command that shows the log of a finished job."""
        return f"Its log: {self.command('logs')}"

    def result(self, code: int) -> str | None:
        """Return the last line of the log if it is the result of `--json`.

        Args:
            code: The job's exit code. The log of a killed job ends without a result, and its
                last line may be a JSON log record.
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
        """Tell whether the cluster has the job although the submission raised an error.

        Raises:
            JobError: The cluster does not answer.
        """
        import requests

        for _ in range(LOOKS):  # a slow head node may record the job later
            try:
                self.cluster.client.get_job_info(self.id)
            except (requests.RequestException, RuntimeError) as answer:
                if not is_unknown_job(answer):
                    raise JobError(self._lost(error, "lost the connection")) from None
            else:
                return True
            time.sleep(POLL_S)
        return False

    def wait(self, show: Callable[[str], None]) -> int:
        """Show the job's log until the job ends.

        Returns:
            The exit code of the command; 1 if it never ran.

        Raises:
            JobError: The head node stopped answering; the job may still run.
        """
        with interruption_hint(self.hint()):
            code = self._followed(show)
        if code and (lacking := LACKING.search(self.log[-LAST_WORDS:])):
            show(f"The cluster's Python has no module {lacking[1]}. {FIND_PACKAGES}\n")
        return code

    def _followed(self, show: Callable[[str], None]) -> int:
        silent_since = None
        while True:
            self._tail(show)
            try:
                info = self.cluster.client.get_job_info(self.id)
            except Exception as error:  # sockets, HTTP and Ray: the head does not answer
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
        """Show the rest of a finished job's log; errors do not hide its exit code."""
        for _ in range(TAIL_ATTEMPTS):
            if self._tail(show):
                return
            time.sleep(POLL_S)

    def _tail(self, show: Callable[[str], None]) -> bool:
        """Show new text of the log; tell whether the log reached its end."""

        async def run() -> bool:
            seen, log = 0, self.cluster.client.tail_job_logs(self.id)
            while True:
                try:
                    lines = await self._next(log)
                except StopAsyncIteration:
                    return True
                except Exception:  # connection lost or quiet; `show` is outside
                    return False
                new = lines[max(0, self.num_shown - seen) :]
                seen += len(lines)
                self.num_shown = max(self.num_shown, seen)
                if new:
                    self.log = (self.log + new)[-MAX_RESULT:]
                    show(new)

        return asyncio.run(run())

    async def _next(self, log: AsyncIterator[str]) -> str:
        """Return the next lines; while there are none, check that the head node answers.

        It does not reopen a quiet log: Ray's dashboard keeps an abandoned log connection until the
        job's next line, and accepts 100 connections in all.
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
        remedy = f"Check it later: {self.command('status')}"
        return Problem("--address", self.cluster.address, allowed, remedy)


def _exit_code(info: Any, show: Callable[[str], None]) -> int:
    code = info.driver_exit_code
    if code is None:  # the job never ran, or was stopped
        show(f"{info.message or info.status}\n")
        return 1
    # Shells report a command that a signal ended as 128 plus the signal number.
    return 128 - code if code < 0 else int(code)


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Unset variables that Ray would prefer to the given address."""
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
    """Submit a job to a cluster.

    Args:
        kind: train, tune or score.
        job: The resolved job.
        address: The cluster's dashboard.
        shipping: Shared folders, packages and image.
        say: Receives lines for the user.
        as_json: Whether the job's log ends with its JSON result.

    Raises:
        ConfigError: The cluster does not answer, or cannot read the job's paths.
    """
    check_paths(job, shipping.shared)
    entrypoint = command(kind, job, shipping, as_json)
    cluster = Cluster(address, say)
    with temporary_folder() as folder:
        write_code(job, Path(folder))
        submitted = cluster.submit(entrypoint, f"clftask-{kind}", environment(folder, shipping))
    say(f"job {submitted.id} on {cluster.address}")
    return submitted
