"""Secrets of the environment and of careless paths stand in no file and in no message."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import environment
from score_world import World
from typer.testing import CliRunner

from clftask.cli.main import app
from clftask.config.train import TrainJob
from clftask.config.tune import TuneJob
from clftask.data.prepare import prepare, tokenise
from clftask.distributed.session import connected
from clftask.distributed.train.driver import Environment, train
from clftask.distributed.tune.driver import tune
from clftask.errors import ClftaskError, Problem
from clftask.io import filesystems, listing, storage
from clftask.models.tokenizers import load_tokenizer
from clftask.redaction import masked
from clftask.training.worker import Work, fit

WRONG = "wrong/secret+of+forty+characters/0123456"
TOKENS = {
    "MLFLOW_TRACKING_USERNAME": "mlflow-user-hunter2",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-hunter2",
    "MLFLOW_TRACKING_TOKEN": "mlflow-token-hunter2",
    "WANDB_API_KEY": "wandb-hunter2",
    "HF_TOKEN": "hf_hunter2",
}


def secrets(s3: Any) -> list[bytes]:
    """Return what must stand nowhere, also as base64 has it."""
    plain = [s3.admin[1], WRONG, *TOKENS.values()]
    return [text.encode() for text in plain] + [
        base64.b64encode(t.encode()).strip(b"=") for t in plain
    ]


def found_in(data: bytes, s3: Any) -> list[str]:
    return [secret.decode() for secret in secrets(s3) if secret in data]


def spilt(place: str, s3: Any) -> list[tuple[str, str]]:
    """Return the files below a place that hold a secret, and which."""
    files = [file.path for file in listing.list_files(place)]
    assert files
    return [(path, secret) for path in files for secret in found_in(storage.read_bytes(path), s3)]


@pytest.fixture
def armed(s3: Any) -> Iterator[None]:
    with environment({**TOKENS, "CLFTASK_DEBUG": None}):
        yield


@pytest.fixture
def place(s3: Any) -> str:
    return f"{s3.bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def document(toy_table: Any, tiny_base: Path, place: str) -> dict[str, Any]:
    storage.put(f"{place}/in/toy.parquet", toy_table(120).read_bytes())
    labels = {"kind": "list", "column": "tags"}
    return {
        "task": "multilabel",
        "data": {"train": f"{place}/in/toy.parquet", "text": "text", "id": "id", "labels": labels},
        "model": {"base": str(tiny_base), "max_length": 32},
        "training": {"epochs": 1, "batch_size": 20, "precision": "fp32", "early_stopping": None},
        "run": {"storage": f"{place}/runs", "name": "run"},
    }


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


# ------------------------------------------------------------------ what is written


class _Sink:
    def __init__(self) -> None:
        self.said: list[Any] = []

    def post(self, record: dict[str, Any]) -> None:
        self.said.append(record)

    def report(self, metrics: dict[str, float]) -> None:
        self.said.append(metrics)

    def is_leaving(self) -> bool:
        return False


def test_no_secret_is_in_a_run_or_said_on_the_way(armed, s3, document, place, tmp_path):
    """Training, measuring, deciding and looking, all on S3."""
    job = TrainJob.load(document)
    prepared, sink = prepare(job), _Sink()
    tables = tokenise(prepared, load_tokenizer(job.model.base), job.model)
    data = {"fingerprint": prepared.fingerprint, "report": prepared.report.as_json()}
    path = f"{place}/runs/run"
    storage.put(f"{path}/job.yaml", job.to_yaml().encode())
    fit(Work(job, path, tables, prepared.space.names, data, ""), sink, 0, 1, "cpu")
    table = f"{place}/in/toy.parquet"
    said = [
        run("inspect", path),
        run("inspect", f"{path}/bundle"),
        run("evaluate", f"{path}/bundle", table),
        run("decide", f"{path}/bundle", table, "--output", f"{place}/decided"),
        run("compare", f"{path}/bundle", f"{place}/decided", table),
    ]
    assert [code for code, _ in said] == [0] * 5
    assert found_in(json.dumps([said, sink.said], default=str).encode(), s3) == []
    assert spilt(place, s3) == []
    names = {file.path.rpartition("/")[2] for file in listing.list_files(place)}
    assert {"clftask.json", "README.md", "report.html", "log.txt", "metrics.jsonl"} <= names


def test_no_secret_is_in_a_score_table(armed, s3, tiny_bundle, place, tmp_path):
    world = World(tmp_path, tiny_bundle)
    world.write("a.parquet", 25)
    storage.upload(str(world.input), f"{place}/in")
    where = {"input": {"path": f"{place}/in", "id": "id"}, "output": {"path": f"{place}/out"}}
    world.run(**where)
    assert run("inspect", f"{place}/out", "--verify")[0] == 0
    assert spilt(place, s3) == []


@pytest.fixture(scope="module")
def ray_session(s3: Any) -> Iterator[Path]:
    """Ray with the secrets in its environment; the folder of its logs."""
    with environment(TOKENS), connected():
        import ray

        yield Path(ray._private.worker._global_node.get_session_dir_path())


@pytest.mark.slow
def test_no_secret_is_in_what_ray_stores(ray_session, s3, document, place, capfd):
    """While a training and a search run, and after; what Ray keeps on S3 goes when they end."""
    seen: set[str] = set()
    spills: list[Any] = []
    said: list[str] = []

    def look(record: dict[str, Any]) -> None:
        states = [f.path for f in listing.list_files(place) if "/.ray/" in f.path]
        for path in states:
            seen.add(path.rpartition("/")[2].split("-")[0])
            with_secret = found_in(storage.read_bytes(path), s3) if storage.exists(path) else []
            spills.extend((path, secret) for secret in with_secret)
        said.append(json.dumps(record, default=str))

    train(TrainJob.load(document), said.append, look)
    search = {"train": document, "trials": 2, "finalists": None, "run": document["run"]}
    search["space"] = {"training.learning_rate": {"kind": "choice", "values": [1e-2, 2e-2]}}
    tune(TuneJob.load(search, ["run.name=search"]), said.append, look)
    assert {"search_gen_state", "experiment_state"} <= seen
    assert spills == []
    assert spilt(place, s3) == []
    out = capfd.readouterr()
    assert found_in("\n".join([*said, out.out, out.err]).encode(), s3) == []
    artifacts = [path for path in (ray_session / "artifacts").rglob("*") if path.is_file()]
    assert artifacts
    assert [path for path in artifacts if found_in(path.read_bytes(), s3)] == []


# ------------------------------------------------------------------ what is refused

REFUSED: dict[str, Callable[[Any], dict[str, str]]] = {
    "a wrong secret": lambda s3: {"AWS_SECRET_ACCESS_KEY": WRONG},
    "an unknown key": lambda s3: {"AWS_ACCESS_KEY_ID": "who", "AWS_SECRET_ACCESS_KEY": WRONG},
    "no right to write": lambda s3: dict(
        zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), s3.reader, strict=True)
    ),
}


@pytest.mark.parametrize("who", REFUSED)
def test_a_refusal_says_no_secret(armed, s3, document, place, tmp_path, who):
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(document))
    with environment(REFUSED[who](s3)):
        said = [
            run("train", file),
            run("train", file, "run.storage=s3://no-such-bucket-here/runs"),
            run("evaluate", f"{place}/bundle", f"{place}/in/toy.parquet"),
            run("inspect", f"{place}/runs"),
        ]
    assert {code for code, _ in said} == {2}
    assert found_in(json.dumps(said).encode(), s3) == []
    assert listing.list_files(f"{place}/runs") == []


def test_rays_record_of_a_training_holds_no_key(armed):
    from ray.train.v2._internal.state.schema import _to_json_serializable_value

    given = {"environment": Environment.of_trackers()}
    assert given["environment"].variables["WANDB_API_KEY"] == TOKENS["WANDB_API_KEY"]
    assert "hunter2" not in json.dumps(_to_json_serializable_value(given))


SECRET = "hunter2/hunter2+hunter2"
URLS = [
    f"s3://AKIAEXAMPLE:{SECRET}@bucket/table.csv",
    f"https://user:{SECRET.replace('/', '_')}@example.invalid/table.csv",
    "https://hunter2@example.invalid/table.csv",
    "https://example.invalid/table.csv?X-Amz-Credential=a&X-Amz-Signature=hunter2",
    "https://example.invalid/table.csv?sig=x&token=hunter2",
    "https://account.example.invalid/c/table.csv?sig=hunter2&se=2026-12-31",
    f"ftp://user:{SECRET}@example.invalid/table.csv",
]
FIELDS = ["data.train", "data.validation", "model.base", "run.storage"]


@pytest.mark.parametrize("url", URLS)
def test_a_url_with_a_secret_is_refused_without_repeating_it(document, tiny_bundle, tmp_path, url):
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(document))
    said = [run("train", file, "--dry-run", f"{field}={url}") for field in FIELDS]
    said += [run("evaluate", tiny_bundle, url), run("inspect", url), run("evaluate", url, "x.csv")]
    score = {"bundle": tiny_bundle, "input": {"path": url}, "output": {"path": url}}
    (tmp_path / "score.yaml").write_text(json.dumps(score))
    said += [run("score", tmp_path / "score.yaml", "--dry-run")]
    assert {code for code, _ in said} == {2}
    assert "hunter2" not in json.dumps(said)
    for field, (_, output) in zip(FIELDS, said, strict=False):
        assert f"error: {field}: " in output
        assert "environment or a profile" in output


PLAIN = ["abfs://container@account.dfs.core.windows.net/x.csv", "s3://bucket/a@b/token=5/x.csv"]
PLAIN += ["ssh://user@host/x.csv", "http://host:8080/x.csv", "s3://bucket/x.csv"]
PLAIN += ["hdfs://host:8020/user/a@b/x.csv", "gs://bucket/at:7/a@b.csv", "s3://bucket/a::b.csv"]


@pytest.mark.parametrize("url", PLAIN)
def test_other_urls_are_none_with_a_secret(url):
    assert filesystems.absolute(url) == url


OVERRIDES = [
    "aws_secret_access_key",
    "training.hf.hub_token",
    "training.hf.api_key",
    "run.password",
]


@pytest.mark.parametrize("field", OVERRIDES)
def test_a_secret_in_a_job_is_not_repeated(armed, document, tmp_path, field):
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(document))
    code, output = run("train", file, f"{field}=hunter2")
    assert code == 2
    assert field.rpartition(".")[2] in output
    assert "hunter2" not in output


TEXTS = {
    "s3://AKIA:abc/def+gh@bucket/x": "s3://***@bucket/x",
    "cannot open https://u:p@h/x?a=1 now": "cannot open https://***@h/x?a=1 now",
    "http://h/x?X-Amz-Signature=ab%2Fc&y=1": "http://h/x?X-Amz-Signature=***&y=1",
    "{'hub_token': 'hf_abc', 'a': 1}": "{'hub_token': ***, 'a': 1}",
    "AWS_SECRET_ACCESS_KEY=abc": "AWS_SECRET_ACCESS_KEY=***",
    "password: abc": "password: ***",
    "https://h/x?se=1&sig=ab%2Fc": "https://h/x?se=1&sig=***",
    "Authorization: Bearer abc.def-ghi": "Authorization: Bearer ***",
    "{'Authorization': 'Basic dXNlcjpodW50ZXIy'}": "{'Authorization': 'Basic ***'}",
    "curl -H 'authorization: token ghx_0123456789'": "curl -H 'authorization: token ***'",
    "sent with bearer abcdef123456": "sent with bearer ***",
    "hub_token: hf_abcdefghijklmnopqrstuvwxyzABCDEFGH": "hub_token: ***",
    "model.base: hf_abcdefghijklmnopqrstuvwxyzABCDEFGH": "model.base: ***",
    "no model hf_Ab3dEf6hIj": "no model ***",
    "key ghp_abcdefghijklmnopqrstuvwxyz0123456789 is old": "key *** is old",
    "with sk-proj-abcdefghijklmnopqrstuvwx": "with ***",
    "no key AKIAIOSFODNN7EXAMPLE": "no key ***",
    "aws_access_key_id = AKIAIOSFODNN7EXAMPLE": "aws_access_key_id = ***",
    "aws_session_token: 'FwoG/+=x y'": "aws_session_token: ***",
    "AccountName=a;AccountKey=Zm9v/+==;x=1": "AccountName=a;AccountKey=***;x=1",
    "https://h/x?X-Amz-Credential=AK/2&X-Amz-Security-Token=t%2F&X-Amz-Date=1": (
        "https://h/x?X-Amz-Credential=***&X-Amz-Security-Token=***&X-Amz-Date=1"
    ),
    "the password: hunter is wrong": "the password: *** is wrong",
    "token: abc is invalid": "token: *** is invalid",
    **{
        same: same
        for same in (
            "`ray get-auth-token` prints its token: paste it into RAY_AUTH_TOKEN.",
            "authentication failed: token missing or invalid",
            "hf_internal_testing/tiny-random-bert",
            "pip install scikit-learn",
            "authorization is off",
            "Check AWS_PROFILE, the access keys and the bucket's policy.",
            "the first 128 tokens: x",
            "max_tokens: 128",
            "abfs://container@account/x",
            "s3://bucket/at:7/a@b.csv",
            "author=x",
        )
    },
}


@pytest.mark.parametrize(("text", "shown"), TEXTS.items())
def test_masked(text, shown):
    assert masked(text) == shown
    problem = Problem(text, text, text, text)
    assert (problem.path, problem.value, problem.allowed, problem.remedy) == (shown,) * 4
    assert json.dumps(ClftaskError(problem).as_json()).count(json.dumps(shown)[1:-1]) == 4
