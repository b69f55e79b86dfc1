"""The command line: parse, load, run, exit code. Heavy imports wait until they are needed."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from clftask.errors import ClftaskError, ConfigError, JobError, Problem

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
    _guarded(lambda: _train(job, overrides or [], dry_run, as_json), as_json)


def _train(path: str, overrides: list[str], dry_run: bool, as_json: bool) -> None:
    from clftask.config import TrainJob

    job = TrainJob.load(path, overrides)
    if dry_run:
        _print_job(job, as_json)
        return
    from clftask.cluster.train import train as run
    from clftask.quiet import quiet_libraries
    from clftask.screen import TrainScreen, train_summary

    quiet_libraries()
    with TrainScreen() as screen:
        result = run(job, screen.say, screen.show)
    train_summary(result, file=sys.stderr if as_json else sys.stdout)
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

    _guarded(run, as_json)


def _tune(path: str, overrides: list[str], dry_run: bool, as_json: bool) -> None:
    from clftask.config import TuneJob

    job = TuneJob.load(path, overrides)
    if dry_run:
        _print_job(job, as_json)
        return
    from clftask.cluster.tune import tune as run
    from clftask.quiet import quiet_libraries
    from clftask.screen import TuneScreen, tune_summary

    quiet_libraries()
    with TuneScreen(job.goal, job.num_trials) as screen:
        result = run(job, screen.say, screen.show)
    tune_summary(result, job.goal, file=sys.stderr if as_json else sys.stdout)
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

    _guarded(run, as_json)


def _score(path: str, overrides: list[str], dry_run: bool, as_json: bool) -> None:
    from clftask.config import ScoreJob

    job = ScoreJob.load(path, overrides)
    if dry_run:
        _print_job(job, as_json)
        return
    from clftask.cluster.score import score as run
    from clftask.quiet import quiet_libraries
    from clftask.screen import ScoreScreen, score_summary

    quiet_libraries()
    with ScoreScreen() as screen:
        result = run(job, screen.say, screen.show)
    score_summary(result, file=sys.stderr if as_json else sys.stdout)
    if as_json:
        left_out = ("labels", "rows_truncated", "mean_confidence")
        typer.echo(json.dumps({k: v for k, v in result.items() if k not in left_out}))


def _refuse_both(dry_run: bool) -> None:
    if dry_run:
        allowed = "prints the job, --estimate measures it: not both at once"
        raise ConfigError(Problem("--dry-run", None, allowed, "Leave one of them out."))


def _estimate_score(path: str, overrides: list[str], as_json: bool) -> None:
    from clftask.config import ScoreJob

    job = ScoreJob.load(path, overrides)
    from clftask.cluster.estimating import estimate_score
    from clftask.estimate_screen import score_estimate

    _shown(lambda say: estimate_score(job, say), score_estimate, as_json)


def _estimate_tune(path: str, overrides: list[str], as_json: bool) -> None:
    from clftask.config import TuneJob

    job = TuneJob.load(path, overrides)
    from clftask.cluster.estimating import estimate_tune
    from clftask.estimate_screen import tune_estimate

    _shown(lambda say: estimate_tune(job, say), tune_estimate, as_json)


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="The bundle.")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A labelled table.")],
    as_json: AsJson = False,
) -> None:
    """Measure a bundle on a labelled table."""

    def run() -> None:
        from clftask.judging import evaluate_bundle

        _judged(lambda say: evaluate_bundle(bundle, table, say), as_json)

    _guarded(run, as_json)


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
        from clftask.judging import decide_bundle

        _judged(lambda say: decide_bundle(bundle, table, overrides or [], output, say), as_json)

    _guarded(run, as_json)


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
        from clftask.quiet import quiet_libraries

        quiet_libraries()
        compared = _compared_tables if table is None else _compared_bundles
        result = compared(a, b, table, gate or [], sys.stderr if as_json else sys.stdout)
        if as_json:
            typer.echo(json.dumps(result))
        if not result["passed"]:
            raise typer.Exit(1)

    _guarded(run, as_json)


def _compared_bundles(a: str, b: str, table: Any, gates: list[str], file: Any) -> dict[str, Any]:
    from clftask.comparing import compare_bundles
    from clftask.screen import compare_summary

    result = compare_bundles(a, b, table, gates, functools.partial(typer.echo, err=True))
    compare_summary(result, file)
    return result


def _compared_tables(a: str, b: str, _: Any, gates: list[str], file: Any) -> dict[str, Any]:
    from clftask.churn import compare_tables
    from clftask.screen import churn_summary

    result = compare_tables(a, b, gates)
    churn_summary(result, file)
    return result


def _judged(run: Callable[[Callable[[str], None]], dict[str, Any]], as_json: bool) -> None:
    from clftask.screen import judged_summary

    _shown(run, judged_summary, as_json)


def _shown(
    run: Callable[[Callable[[str], None]], dict[str, Any]],
    show: Callable[[dict[str, Any], IO[str]], None],
    as_json: bool,
) -> None:
    from clftask.quiet import quiet_libraries

    quiet_libraries()
    result = run(lambda line: typer.echo(line, err=True))
    show(result, sys.stderr if as_json else sys.stdout)
    if as_json:
        typer.echo(json.dumps(result))


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
        from clftask.inspection import inspect as look
        from clftask.screen import inspect_summary

        found = look(path, verify)
        inspect_summary(found, file=sys.stderr if as_json else sys.stdout)
        if as_json:
            typer.echo(json.dumps(found))

    _guarded(run, as_json)


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(metavar="train|tune|score", help="Which job file.")],
) -> None:
    """Print the JSON Schema of a job file."""

    def run() -> None:
        from clftask.config import ScoreJob, TrainJob, TuneJob

        jobs: dict[str, type[Spec]] = {"train": TrainJob, "tune": TuneJob, "score": ScoreJob}
        if kind not in jobs:
            raise ConfigError(Problem("schema", kind, "must be train, tune or score"))
        typer.echo(json.dumps(jobs[kind].model_json_schema(), indent=2))

    _guarded(run)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where data, jobs and runs go.")] = Path("demo"),
    as_json: AsJson = False,
) -> None:
    """Build a real corpus, train on it, report: the embedded default."""

    def run() -> None:
        from clftask.demo import demo as show

        result = show(folder, sys.stderr if as_json else sys.stdout)
        if as_json:
            typer.echo(json.dumps(result))

    _guarded(run, as_json)


def _guarded(run: Callable[[], None], as_json: bool = False) -> None:
    """Run a command; turn its errors into a message and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        run()
    except ClftaskError as error:
        _explain(error, as_json)
        if os.environ.get("CLFTASK_DEBUG"):
            raise
        raise typer.Exit(error.exit_code) from None
    except typer.Exit:
        raise
    except KeyboardInterrupt as stop:
        code = 143 if isinstance(stop, _Terminated) else 130
        remedy = " ".join(getattr(stop, "__notes__", ["Run the job again."]))
        problem = Problem("clftask", None, "was interrupted", remedy)
        _explain(JobError(problem), as_json, code)
        raise typer.Exit(code) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise typer.Exit(0) from None
    except Exception as error:  # a defect of ours: still no traceback, still JSON
        if os.environ.get("CLFTASK_DEBUG"):
            raise
        remedy = "Please report it; CLFTASK_DEBUG=1 shows where it comes from."
        reason = f"{type(error).__name__}: {error}"
        _explain(JobError(Problem("clftask", None, f"failed inside: {reason}", remedy)), as_json)
        raise typer.Exit(1) from None


def _explain(error: ClftaskError, as_json: bool, code: int | None = None) -> None:
    for problem in error.problems:
        typer.echo(f"error: {problem}", err=True)
    if as_json:
        content = error.as_json()
        content["error"]["exit"] = code or error.exit_code
        typer.echo(json.dumps(content, default=str))


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers and containers send it."""


def _terminated(*_: object) -> None:
    raise _Terminated


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line."""
    return app(args=arguments)


if __name__ == "__main__":
    main()
