"""The command line: parse, load, run, exit code. Heavy imports wait until they are needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from clftask.cli.output import explain, guarded, say, tables
from clftask.errors import ConfigError, JobError, Problem

if TYPE_CHECKING:
    from clftask.spec import Spec

app = typer.Typer(
    name="clftask",
    help="Train multiclass and multilabel text classifiers on Ray, and score with them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JobFile = Annotated[str, typer.Argument(metavar="JOB.yaml", help="The job file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[field.path=value ...]", help="Override fields.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved job and exit.")]
Estimate = Annotated[
    bool, typer.Option("--estimate", help="Measure a sample, say what the job takes, and exit.")
]
AsJson = Annotated[bool, typer.Option("--json", help="End stdout with one JSON object.")]


@app.command()
def train(
    job: JobFile, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Train, evaluate, write a bundle."""
    guarded(lambda: _train(job, overrides or [], dry_run, as_json), as_json)


def _train(path: str, overrides: list[str], dry_run: bool, as_json: bool) -> None:
    from clftask.config.train import TrainJob

    job = TrainJob.load(path, overrides)
    if dry_run:
        _print_job(job, as_json)
        return
    from clftask.cli.progress import TrainScreen
    from clftask.cli.summaries import train_summary
    from clftask.distributed.train.driver import train as run
    from clftask.logs import quiet_libraries

    quiet_libraries()
    with TrainScreen() as screen:
        result = run(job, screen.say, screen.show)
    train_summary(result, file=tables(as_json))
    if as_json:
        kept = ("run", "bundle", "metrics", "epochs", "seconds", "samples_per_s", "workers")
        typer.echo(json.dumps({name: result[name] for name in kept}))


@app.command()
def tune(
    job: JobFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    estimate: Estimate = False,
    as_json: AsJson = False,
) -> None:
    """Search hyperparameters, write the best job and its bundle."""

    def run() -> None:
        if estimate:
            _refuse_both(dry_run)
            _estimate_tune(job, overrides or [], as_json)
        else:
            _tune(job, overrides or [], dry_run, as_json)

    guarded(run, as_json)


def _tune(path: str, overrides: list[str], dry_run: bool, as_json: bool) -> None:
    from clftask.config.tune import TuneJob

    job = TuneJob.load(path, overrides)
    if dry_run:
        _print_job(job, as_json)
        return
    from clftask.cli.progress import TuneScreen
    from clftask.cli.summaries import tune_summary
    from clftask.distributed.tune.driver import tune as run
    from clftask.logs import quiet_libraries

    quiet_libraries()
    with TuneScreen(job.goal, job.num_trials) as screen:
        result = run(job, screen.say, screen.show)
    tune_summary(result, job.goal, file=tables(as_json))
    if as_json:
        typer.echo(json.dumps(result))


@app.command()
def score(
    job: JobFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    estimate: Estimate = False,
    as_json: AsJson = False,
) -> None:
    """Score a corpus into a probability table."""

    def run() -> None:
        if estimate:
            _refuse_both(dry_run)
            _estimate_score(job, overrides or [], as_json)
        else:
            _score(job, overrides or [], dry_run, as_json)

    guarded(run, as_json)


def _score(path: str, overrides: list[str], dry_run: bool, as_json: bool) -> None:
    from clftask.config.score import ScoreJob

    job = ScoreJob.load(path, overrides)
    if dry_run:
        _print_job(job, as_json)
        return
    from clftask.cli.progress import ScoreScreen
    from clftask.cli.summaries import score_summary
    from clftask.distributed.score.driver import score as run
    from clftask.logs import quiet_libraries

    quiet_libraries()
    with ScoreScreen() as screen:
        result = run(job, screen.say, screen.show)
    score_summary(result, file=tables(as_json))
    if as_json:
        left_out = ("labels", "rows_truncated", "mean_confidence")
        typer.echo(json.dumps({k: v for k, v in result.items() if k not in left_out}))


def _refuse_both(dry_run: bool) -> None:
    if dry_run:
        allowed = "prints the job, --estimate measures it: not both at once"
        raise ConfigError(Problem("--dry-run", None, allowed, "Leave one of them out."))


def _estimate_score(path: str, overrides: list[str], as_json: bool) -> None:
    from clftask.config.score import ScoreJob

    job = ScoreJob.load(path, overrides)
    from clftask.cli.estimate_summaries import score_estimate
    from clftask.distributed.estimate import estimate_score

    _shown(lambda say: estimate_score(job, say), score_estimate, as_json)


def _estimate_tune(path: str, overrides: list[str], as_json: bool) -> None:
    from clftask.config.tune import TuneJob

    job = TuneJob.load(path, overrides)
    from clftask.cli.estimate_summaries import tune_estimate
    from clftask.distributed.estimate import estimate_tune

    _shown(lambda say: estimate_tune(job, say), tune_estimate, as_json)


@app.command()
def submit(
    kind: Annotated[str, typer.Argument(metavar="train|tune|score", help="What to run.")],
    job: JobFile,
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option(help="The cluster's dashboard: http://host:8265.", show_default=False)
    ] = "",
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the job's id and leave it running.")
    ] = False,
    shared: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER", help="A folder that all nodes of the cluster have."),
    ] = None,
    packages: Annotated[
        bool, typer.Option("--pip", help="Let the cluster install the packages used here.")
    ] = False,
    image: Annotated[
        str | None, typer.Option(help="A container image with clftask for the job to run in.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a job on a Ray cluster; show its log, end with its exit code."""

    def run() -> None:
        from clftask.distributed.submit.client import send
        from clftask.distributed.submit.package import Shipping, load

        shipping = Shipping(tuple(shared or []), packages, image)
        submitted = send(kind, load(kind, job, overrides or []), address, shipping, say, as_json)
        _leave(submitted, as_json) if no_wait else _wait_for(submitted, as_json)

    guarded(run, as_json)


def _leave(submitted: Any, as_json: bool) -> None:
    say(submitted.hint())
    found = {"id": submitted.id, "address": submitted.cluster.address}
    typer.echo(json.dumps(found) if as_json else submitted.id)


def _wait_for(submitted: Any, as_json: bool) -> None:
    code = submitted.wait(lambda text: typer.echo(text, nl=False, err=as_json))
    result = submitted.result(code) if as_json else None
    if result is not None:
        typer.echo(result)
    elif as_json and code:
        problem = Problem(
            "submit", submitted.id, f"ended with {code} and no result", submitted.where()
        )
        explain(JobError(problem), as_json, code)
    if code:
        raise typer.Exit(code)


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="The bundle.")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A labelled table.")],
    as_json: AsJson = False,
) -> None:
    """Measure a bundle on a labelled table."""

    def run() -> None:
        from clftask.commands.evaluate import evaluate_bundle

        _judged(lambda say: evaluate_bundle(bundle, table, say), as_json)

    guarded(run, as_json)


@app.command()
def decide(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="The bundle.")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A labelled table.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[decision.field=value ...]", help="Another kind of decision."),
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Where the bundle goes; else it is changed in place.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Refit calibration and thresholds on new labelled rows, without training."""

    def run() -> None:
        from clftask.commands.evaluate import decide_bundle

        _judged(lambda say: decide_bundle(bundle, table, overrides or [], output, say), as_json)

    guarded(run, as_json)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The bundle or score table before.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The bundle or score table after.")],
    table: Annotated[
        str | None,
        typer.Argument(metavar="[TABLE]", help="For bundles: labelled rows.", show_default=False),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(metavar="FIGURE>=NUMBER", help="Exit 1 unless B − A keeps to it."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what changed between two bundles or two score tables; exit 1 when a gate fails."""

    def run() -> None:
        from clftask.logs import quiet_libraries

        quiet_libraries()
        compared = _compared_tables if table is None else _compared_bundles
        result = compared(a, b, table, gate or [], tables(as_json))
        if as_json:
            typer.echo(json.dumps(result))
        if not result["passed"]:
            raise typer.Exit(1)

    guarded(run, as_json)


def _compared_bundles(a: str, b: str, table: Any, gates: list[str], file: Any) -> dict[str, Any]:
    from clftask.cli.summaries import compare_summary
    from clftask.commands.compare_bundles import compare_bundles

    result = compare_bundles(a, b, table, gates, say)
    compare_summary(result, file)
    return result


def _compared_tables(a: str, b: str, _: Any, gates: list[str], file: Any) -> dict[str, Any]:
    from clftask.cli.summaries import compare_tables_summary
    from clftask.commands.compare_tables import compare_tables

    result = compare_tables(a, b, gates)
    compare_tables_summary(result, file)
    return result


def _judged(run: Callable[[Callable[[str], None]], dict[str, Any]], as_json: bool) -> None:
    from clftask.cli.summaries import evaluation_summary

    _shown(run, evaluation_summary, as_json)


def _shown(
    run: Callable[[Callable[[str], None]], Any],
    show: Callable[[Any, IO[str]], None],
    as_json: bool,
) -> None:
    from clftask.logs import quiet_libraries

    quiet_libraries()
    result = run(say)
    show(result, tables(as_json))
    if as_json:
        typer.echo(json.dumps(result, default=vars))  # of dataclasses, their fields


def _print_job(job: Spec, as_json: bool) -> None:
    typer.echo(json.dumps(job.dump()) if as_json else job.to_yaml(), nl=as_json)


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="A run, a bundle, a score table or a job file.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every part of a score table.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a run, a bundle, a job or a score table is."""

    def run() -> None:
        from clftask.cli.summaries import inspect_summary
        from clftask.commands.inspect import inspect as look

        found = look(path, verify)
        inspect_summary(found, file=tables(as_json))
        if as_json:
            typer.echo(json.dumps(found))

    guarded(run, as_json)


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(metavar="train|tune|score", help="Which job file.")],
) -> None:
    """Print the JSON Schema of a job file."""

    def run() -> None:
        from clftask.config.score import ScoreJob
        from clftask.config.train import TrainJob
        from clftask.config.tune import TuneJob

        jobs: dict[str, type[Spec]] = {"train": TrainJob, "tune": TuneJob, "score": ScoreJob}
        if kind not in jobs:
            raise ConfigError(Problem("schema", kind, "must be train, tune or score"))
        typer.echo(json.dumps(jobs[kind].model_json_schema(), indent=2))

    guarded(run)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where data, jobs and runs go.")] = Path("demo"),
    as_json: AsJson = False,
) -> None:
    """Build a real corpus, train on it, report: the embedded default."""

    def run() -> None:
        from clftask.cli.demo import demo as show

        result = show(folder, tables(as_json))
        if as_json:
            typer.echo(json.dumps(result))

    guarded(run, as_json)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line."""
    return app(args=arguments)
