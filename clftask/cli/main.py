"""The command-line interface. Imports of Ray and transformers take seconds, so they are lazy."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer

from clftask import __version__, garbage, logs
from clftask.cli.errors import explain, guarded
from clftask.cli.output import say, tables
from clftask.errors import ConfigError, JobError, Problem
from clftask.io.strict_json import to_json

Shown = TypeVar("Shown")
P = ParamSpec("P")

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
    bool,
    typer.Option("--estimate", help="Estimate time and storage from a sample, and exit."),
]
AsJson = Annotated[bool, typer.Option("--json", help="End stdout with one JSON object.")]
AllMetrics = Annotated[
    bool, typer.Option("--all-metrics", help="Print all metrics, not only the main ones.")
]
SplitName = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="The split of a dataset that has several; default: test, else the first.",
        show_default=False,
    ),
]


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if version:
        typer.echo(f"clftask {__version__}")
        raise typer.Exit


def _command(run: Callable[P, None]) -> Callable[P, None]:
    """Register a command, whose errors become messages and exit codes."""

    # Typer reads name, help and options from the function that `wraps` names.
    @app.command()
    @wraps(run)
    def command(*args: P.args, **options: P.kwargs) -> None:
        guarded(partial(run, *args, **options), bool(options.get("as_json")))

    return command


@_command
def train(
    job: JobFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    all_metrics: AllMetrics = False,
    as_json: AsJson = False,
) -> None:
    """Train, evaluate, write a bundle."""
    _run_job("train", job, overrides, dry_run, False, as_json, all_metrics=all_metrics)


@_command
def tune(
    job: JobFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    estimate: Estimate = False,
    all_metrics: AllMetrics = False,
    as_json: AsJson = False,
) -> None:
    """Search hyperparameters, write the best job and its bundle."""
    _run_job("tune", job, overrides, dry_run, estimate, as_json, all_metrics=all_metrics)


@_command
def score(
    job: JobFile,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    estimate: Estimate = False,
    as_json: AsJson = False,
) -> None:
    """Score a corpus into a probability table."""
    _run_job("score", job, overrides, dry_run, estimate, as_json)


def _run_job(
    kind: str,
    path: str,
    overrides: list[str] | None,
    dry_run: bool,
    estimate: bool,
    as_json: bool,
    **shown: bool,
) -> None:
    """Run, print or estimate a job of any kind; `shown` are options of its summary."""
    if dry_run and estimate:
        allowed = "cannot be combined with --estimate"
        raise ConfigError(Problem("--dry-run", None, allowed, "Remove one of them."))
    from clftask.config.jobs import load_job

    job = load_job(kind, path, overrides or [])
    if dry_run:
        typer.echo(json.dumps(job.dump()) if as_json else job.to_yaml(), nl=as_json)
        return
    from clftask.cli.job_runners import estimator, job_runner

    if estimate:
        measure, show = estimator(kind)
        _show(lambda: measure(job, say), show, as_json)
    else:
        chosen = job_runner(kind)
        _show(lambda: chosen.run(job), partial(chosen.summarise, **shown), as_json)


@_command
def submit(
    kind: Annotated[str, typer.Argument(metavar="train|tune|score", help="The kind of job.")],
    job: JobFile,
    overrides: Overrides = None,
    address: Annotated[
        str, typer.Option(help="The cluster's dashboard: http://host:8265.", show_default=False)
    ] = "",
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Print the job's id without waiting for it.")
    ] = False,
    shared: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER", help="A folder that all nodes of the cluster mount."),
    ] = None,
    packages: Annotated[
        bool, typer.Option("--pip", help="Install the local package versions on the cluster.")
    ] = False,
    image: Annotated[
        str | None, typer.Option(help="A container image with clftask for the job to run in.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a job on a Ray cluster; print its log and return its exit code."""
    from clftask.config.jobs import load_job
    from clftask.distributed.submit.client import send
    from clftask.distributed.submit.package import Shipping

    shipping = Shipping(tuple(shared or []), packages, image)
    loaded = load_job(kind, job, overrides or [], "clftask submit")
    submitted = send(kind, loaded, address, shipping, say, as_json)
    _leave(submitted, as_json) if no_wait else _wait_for(submitted, as_json)


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
        allowed = f"exited with code {code} without a result"
        problem = Problem("submit", submitted.id, allowed, submitted.where())
        explain(JobError(problem), as_json, code)
    if code:
        raise typer.Exit(code)


@_command
def evaluate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="The bundle.")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A labelled table.")],
    split: SplitName = None,
    all_metrics: AllMetrics = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a bundle on a labelled table."""
    from clftask.cli.summaries import evaluation_summary
    from clftask.commands.evaluate import evaluate_bundle

    summarise = partial(evaluation_summary, all_metrics=all_metrics)
    _show(lambda: evaluate_bundle(bundle, table, say, split), summarise, as_json)


@_command
def decide(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="The bundle.")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A labelled table.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[decision.field=value ...]", help="Override decision fields."),
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="The new bundle's path; default: replace the bundle.")
    ] = None,
    split: SplitName = None,
    all_metrics: AllMetrics = False,
    as_json: AsJson = False,
) -> None:
    """Refit calibration and thresholds on new labelled rows, without training."""
    from clftask.cli.summaries import evaluation_summary
    from clftask.commands.evaluate import decide_bundle

    refit = partial(decide_bundle, bundle, table, overrides or [], output, say, split)
    _show(refit, partial(evaluation_summary, all_metrics=all_metrics), as_json)


@_command
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The baseline bundle or score table.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The new bundle or score table.")],
    table: Annotated[
        str | None,
        typer.Argument(metavar="[TABLE]", help="For bundles: labelled rows.", show_default=False),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(metavar="FIGURE>=NUMBER", help="Exit 1 if B − A violates this bound."),
    ] = None,
    split: SplitName = None,
    all_metrics: AllMetrics = False,
    as_json: AsJson = False,
) -> None:
    """Compare two bundles or two score tables; exit 1 if a gate fails."""
    from clftask.cli.summaries import compare_summary, compare_tables_summary
    from clftask.commands.compare_bundles import compare_bundles
    from clftask.commands.compare_tables import compare_tables

    if table is None and split is not None:
        raise ConfigError(Problem("--split", split, "is for labelled tables", "Remove it."))
    if table is None:
        tables_compared = partial(compare_tables, a, b, gate or [])
        passed = _show(tables_compared, compare_tables_summary, as_json).passed
    else:
        bundles_compared = partial(compare_bundles, a, b, table, gate or [], say, split)
        summarise = partial(compare_summary, all_metrics=all_metrics)
        passed = _show(bundles_compared, summarise, as_json).passed
    if not passed:
        raise typer.Exit(1)


@_command
def prevalence(
    scores: Annotated[str, typer.Argument(metavar="SCORES", help="The score table.")],
    audit: Annotated[
        str, typer.Argument(metavar="AUDIT", help="True labels of a random sample of its rows.")
    ],
    by: Annotated[
        str | None, typer.Option(help="A kept column: shares by its values, too.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="The column of the true labels; default: label or labels."),
    ] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="Between the labels of a row; default: |", show_default=False)
    ] = None,
    split: SplitName = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the shares of labels in a scored corpus, with valid intervals."""
    from clftask.cli.prevalence_summary import prevalence_summary
    from clftask.commands.prevalence import prevalence as estimate

    estimated = partial(estimate, scores, audit, by, labels, split, delimiter, say)
    _show(estimated, prevalence_summary, as_json)


@_command
def inspect(
    path: Annotated[
        str, typer.Argument(help="A run, search, bundle, score table, job file or table.")
    ],
    overrides: Overrides = None,
    data: Annotated[
        bool, typer.Option("--data", help="Describe the data of a job, without training.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every part of a score table.")
    ] = False,
    all_metrics: AllMetrics = False,
    as_json: AsJson = False,
) -> None:
    """Describe a run, a search, a bundle, a score table, a job file or a table."""
    from clftask.cli.inspect_summaries import data_summary, path_summary

    if data and verify:
        allowed = "cannot be combined with --verify"
        raise ConfigError(Problem("--data", None, allowed, "Remove one of them."))
    if data:
        from clftask.commands.inspect_data import inspect_data

        _show(lambda: inspect_data(path, overrides or []), data_summary, as_json)
    else:
        from clftask.commands.inspect import inspect as look

        summarise = partial(path_summary, all_metrics=all_metrics)
        _show(lambda: look(path, verify, overrides or []), summarise, as_json)


@_command
def schema(
    kind: Annotated[str, typer.Argument(metavar="train|tune|score", help="The kind of job.")],
) -> None:
    """Print the JSON Schema of a job file."""
    from clftask.config.jobs import JOBS

    if kind not in JOBS:
        raise ConfigError(Problem("schema", kind, f"must be {', '.join(JOBS)}"))
    typer.echo(json.dumps(JOBS[kind].model_json_schema(), indent=2))


@_command
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder of data, jobs and runs.")] = Path("demo"),
    as_json: AsJson = False,
) -> None:
    """Build a real corpus from boto3, train on it, and score new rows."""
    from clftask.cli.demo import demo as show

    result = show(folder, tables(as_json))
    if as_json:
        typer.echo(to_json(result, _as_json))


def _show(run: Callable[[], Shown], summarise: Callable[..., None], as_json: bool) -> Shown:
    """Run a function and print its result as tables and, with --json, as JSON."""
    logs.quiet_libraries()
    result = run()
    summarise(result, file=tables(as_json))
    if as_json:
        typer.echo(to_json(result, _as_json))
    return result


def _as_json(result: Any) -> dict[str, Any]:
    """Return a dataclass as a JSON object; results of jobs define their own."""
    found: dict[str, Any] = result.as_json() if hasattr(result, "as_json") else vars(result)
    return found


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line."""
    garbage.collect_rarely()
    try:
        return app(args=arguments)
    finally:
        garbage.freeze_imports()  # for the exit
