"""Names of actors in Ray's dashboard."""

from __future__ import annotations

from clftask.distributed.actor_names import named


def test_names_tell_job_and_place_and_never_meet():
    names = [named("score", "s3://bucket/scores/2026-11/", 3) for _ in range(2)]
    assert [name["name"] for name in names] == ["clftask-score:2026-11:3"] * 2
    assert names[0]["namespace"] != names[1]["namespace"]
