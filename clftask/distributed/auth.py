"""Ray's token authentication: who may use a cluster, and what is said of one that takes anyone."""

from __future__ import annotations

import json
import os
import secrets
import urllib.request
from pathlib import Path

from clftask.errors import ConfigError, Problem

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
TIMEOUT_S = 3.0


def authenticate(make: bool = True) -> None:
    """Ask for a token wherever Ray is started here, and send it wherever one is joined.

    Ray by itself would leave the token's file readable by every user of the machine, and
    would not send it to a cluster that asks for it. A RAY_AUTH_MODE that is set is kept.

    Args:
        make: Whether a token is made if there is none: one is needed to start Ray.

    Raises:
        ConfigError: There is no place for the token's file.
    """
    try:
        _authenticate(make)
    except (OSError, RuntimeError) as error:  # the latter where nobody knows a home folder
        remedy = f"Name a file that this user can write in {TOKEN_PATH}."
        problem = Problem(
            TOKEN_PATH, os.environ.get(TOKEN_PATH), f"cannot be used: {error}", remedy
        )
        raise ConfigError(problem) from None


def _authenticate(make: bool) -> None:
    from ray._raylet import Config  # type: ignore[attr-defined]

    file = Path(os.environ.get(TOKEN_PATH) or "~/.ray/auth_token").expanduser()
    if MODE not in os.environ and (make or TOKEN in os.environ or file.is_file()):
        os.environ[MODE] = "token"
        Config.initialize("")  # Ray read the variable when it was imported
    if os.environ.get(MODE) == "token" and TOKEN not in os.environ and (make or file.is_file()):
        ensure_token(file)


def ensure_token(file: Path) -> None:
    """Make a token if there is none; let its owner alone read it."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if file.stat().st_uid == os.getuid() and file.stat().st_mode & 0o077:
            file.chmod(0o600)
        return
    with os.fdopen(handle, "w") as opened:
        opened.write(secrets.token_hex(32))


def is_open(url: str) -> bool:
    """Tell whether a cluster takes jobs from anyone; False if its dashboard does not answer.

    Args:
        url: Of the dashboard, as http://host:port.
    """
    try:
        with urllib.request.urlopen(f"{url}/api/authentication_mode", timeout=TIMEOUT_S) as answer:  # noqa: S310
            mode = json.load(answer).get("authentication_mode")
    except (OSError, ValueError, AttributeError):
        return False
    return bool(mode == "disabled")


def describe_open(cluster: str) -> str:
    """Return what to say of a cluster that takes jobs from anyone."""
    return (
        f"{cluster} has no authentication: whoever reaches its ports can run code on it. "
        "Start it with RAY_AUTH_MODE=token."
    )


def wrong_token(path: str, address: object) -> Problem:
    """Return the problem of a cluster that takes another token, or one where none was found."""
    remedy = (
        "On its head node, `ray get-auth-token` prints its token: put it into ~/.ray/auth_token "
        "here (chmod 600), or into RAY_AUTH_TOKEN."
    )
    return Problem(path, address, "authentication failed: token missing or invalid", remedy)
