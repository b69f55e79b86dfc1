"""Ray's token authentication, and the warning for clusters without authentication."""

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
    """Enable token authentication for a Ray that starts here or a cluster that it connects to.

    Ray itself writes the token file with mode 0644, and does not send the token to a cluster
    unless RAY_AUTH_MODE is set. A RAY_AUTH_MODE that is already set is kept.

    Args:
        make: Whether to create a missing token; starting Ray requires one.

    Raises:
        ConfigError: The token file cannot be written.
    """
    try:
        _authenticate(make)
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        remedy = f"Set {TOKEN_PATH} to a file that this user can write."
        problem = Problem(
            TOKEN_PATH, os.environ.get(TOKEN_PATH), f"cannot be used: {error}", remedy
        )
        raise ConfigError(problem) from None


def _authenticate(make: bool) -> None:
    from ray._raylet import Config  # type: ignore[attr-defined]

    file = Path(os.environ.get(TOKEN_PATH) or "~/.ray/auth_token").expanduser()
    if MODE not in os.environ and (make or TOKEN in os.environ or file.is_file()):
        os.environ[MODE] = "token"
        Config.initialize("")  # Ray reads the variable once, at import
    if os.environ.get(MODE) == "token" and TOKEN not in os.environ and (make or file.is_file()):
        ensure_token(file)


def ensure_token(file: Path) -> None:
    """Create the token file if it is missing; make it readable by its owner only."""
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
    """Tell whether a cluster has no authentication; False if its dashboard does not answer.

    Args:
        url: The dashboard, as http://host:port.
    """
    try:
        with urllib.request.urlopen(f"{url}/api/authentication_mode", timeout=TIMEOUT_S) as answer:  # noqa: S310
            mode = json.load(answer).get("authentication_mode")
    except (OSError, ValueError, AttributeError):
        return False
    return bool(mode == "disabled")


def describe_open(cluster: str) -> str:
    """Return the warning for a cluster without authentication."""
    return (
        f"{cluster} has no authentication: any client that reaches its ports can run code. "
        "Start it with RAY_AUTH_MODE=token."
    )


def wrong_token(path: str, address: object) -> Problem:
    """Return the problem of a missing token, or of one that the cluster rejects."""
    remedy = (
        "Run `ray get-auth-token` on its head node and put the token into ~/.ray/auth_token on "
        "this machine (chmod 600), or into RAY_AUTH_TOKEN."
    )
    return Problem(path, address, "authentication failed: token missing or invalid", remedy)
