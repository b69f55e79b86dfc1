"""Names of actors in Ray's dashboard and state API."""

from __future__ import annotations

import secrets


def named(kind: str, path: str, *rest: object) -> dict[str, str]:
    """Return options that name an actor `clftask-<kind>:<run>:<rest>`.

    Ray requires unique names within a namespace and releases the name of a dead actor late, so
    each actor gets its own namespace. No code looks actors up by name.
    """
    last = path.rstrip("/").rpartition("/")[2]
    name = ":".join([f"clftask-{kind}", last, *map(str, rest)])
    return {"name": name, "namespace": f"clftask-{secrets.token_hex(8)}"}
