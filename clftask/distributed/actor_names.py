"""What Ray's dashboard and state API call our actors."""

from __future__ import annotations

import secrets


def named(kind: str, path: str, *rest: object) -> dict[str, str]:
    """Return options that name an actor `clftask-<kind>:<run>:<rest>`.

    Ray holds names to be unique within a namespace, and frees that of a dead actor late: so each
    actor has a namespace of its own. Nobody looks one up by its name.
    """
    last = path.rstrip("/").rpartition("/")[2]
    name = ":".join([f"clftask-{kind}", last, *map(str, rest)])
    return {"name": name, "namespace": f"clftask-{secrets.token_hex(8)}"}
