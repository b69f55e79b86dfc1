"""Progress of a running job on the terminal: a bar, or a table of trials."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, Self

from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from clftask import logs
from clftask.cli.tables import shown, table_of
from clftask.components.search.goal import Goal
from clftask.messages import counted, printable

LINE_EVERY_S, LINE_EVERY_STEPS, MAX_TRIAL_ROWS = 10.0, 50, 20
OTHER_CELLS = len("/ -:--:--") + 4  # of the progress line, with gaps
GAP = "  "


class _Terminal:
    """Lines above a live display on stderr; only lines if logs are JSON lines."""

    live: Live

    def __init__(self) -> None:
        is_terminal = False if logs.is_json() else None
        self.console = Console(
            stderr=True, highlight=False, markup=False, emoji=False, force_terminal=is_terminal
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A closed or full stderr must not end a job. Rich prints an empty line when a display
        # stops that has not started.
        if self.live.is_started:
            with suppress(OSError):
                self.live.stop()

    def say(self, line: str) -> None:
        """Print a line."""
        with suppress(OSError):
            if logs.is_json():
                logs.say(line)
            else:
                self.console.print(printable(line), soft_wrap=True)


class _Figures:
    """Figures in one line: those that fit the width, the first ones first.

    Rich shrinks a column to the minimum that its cells measure: 0, so that this one gives way.
    """

    def __init__(self, figures: list[str]) -> None:
        self.figures = figures

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(0, min(options.max_width, len(GAP.join(self.figures))))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        fitting = [GAP.join(self.figures[:n]) for n in range(len(self.figures), -1, -1)]
        yield Text(next(text for text in fitting if len(text) <= options.max_width))


class _FiguresColumn(ProgressColumn):
    """The only column that gives way on a narrow terminal; steps and time left stay."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=False))

    def render(self, task: Task) -> _Figures:
        return _Figures(task.fields["figures"])


class _Screen(_Terminal):
    """A progress bar with figures on stderr; plain lines without a terminal."""

    name = ""

    def __init__(self) -> None:
        super().__init__()
        whole = Column(no_wrap=True)  # rich cuts the columns of steps and time by default
        self.bar = BarColumn(table_column=whole)
        fixed = [TextColumn("{task.description}", table_column=whole), self.bar]
        fixed += [MofNCompleteColumn(table_column=whole), TimeRemainingColumn(table_column=whole)]
        columns = [*fixed, _FiguresColumn()]
        self.progress = Progress(*columns, console=self.console)
        self.live = self.progress.live
        self.task: Any = None

    def move(self, completed: int, total: int, figures: list[str]) -> None:
        """Move the bar; of the figures, the last ones give way on a narrow terminal."""
        others = len(self.name) + 2 * len(str(total)) + OTHER_CELLS
        self.bar.bar_width = max(1, min(self.console.width // 5, self.console.width - others))
        if self.task is None:
            self.task = self.progress.add_task(self.name, total=total, figures=[])
            if self.console.is_terminal:
                self.progress.start()
        self.progress.update(self.task, completed=completed, figures=figures)


class TrainScreen(_Screen):
    """Steps, with loss, speed and the job's metric.

    Args:
        metric: The job's metric; evaluations show it and the loss.
    """

    name = "training"

    def __init__(self, metric: str) -> None:
        super().__init__()
        self.names = list(dict.fromkeys(["loss", metric]))
        self.of_step: list[str] = []
        self.evaluated = ""
        self.printed_step = 0

    def show(self, record: dict[str, Any]) -> None:
        """Move the bar; print a line for each evaluation."""
        if "eval_loss" in record:
            values = {name: record.get(f"eval_{name}") for name in self.names}
            found = [f"{name} {shown(value) or '–'}" for name, value in values.items()]
            epoch = f"epoch {record['epoch']:g}:"
            self.say(f"{epoch} validation {GAP.join(found)}")
            self.evaluated = f"{epoch} {found[-1]}"
        if "loss" in record:
            loss = f"loss {shown(record['loss']) or '–'}"
            self.of_step = [loss, f"{record['samples_per_s']:,.4g} rows/s"]
            self._print_step(record)
        loss, *speed = self.of_step or [""]
        figures = [loss, self.evaluated, *speed]
        self.move(record["step"], record["max_steps"], [text for text in figures if text])

    def _print_step(self, record: dict[str, Any]) -> None:
        """Print a line without a terminal; it has no validation figures, which would be old."""
        is_due = record["step"] - self.printed_step >= LINE_EVERY_STEPS
        if is_due and not self.console.is_terminal:
            self.printed_step = record["step"]
            self.say(f"step {record['step']}/{record['max_steps']}: {GAP.join(self.of_step)}")


class ScoreScreen(_Screen):
    """Rows, with speed, bad rows, and rows scored before."""

    name = "scoring"

    def __init__(self) -> None:
        super().__init__()
        self.first: tuple[float, int] | None = None  # time and rows of the first record
        self.printed_at = 0.0

    def show(self, record: dict[str, Any]) -> None:
        """Move the bar; without a terminal, print a line every ten seconds."""
        now = time.monotonic()
        self.first = self.first or (now, record["scored_now"])
        since, before = self.first
        speed = (record["scored_now"] - before) / (now - since) if now > since else 0.0
        figures = self._figures(record, speed)
        if not self.console.is_terminal and now - self.printed_at > LINE_EVERY_S:
            self.printed_at = now
            seconds = round((record["total"] - record["rows"]) / speed) if speed else None
            left = [] if seconds is None else [f"{timedelta(seconds=seconds)} left"]
            of_total = f"{record['rows']:,} of {counted(record['total'], 'row')}"
            line = f"{of_total}: {', '.join([*figures, *left])}"
            self.say(line.removesuffix(": "))
        self.move(record["rows"], record["total"], figures)

    def _figures(self, record: dict[str, Any], speed: float) -> list[str]:
        parts = [f"{speed:,.0f} rows/s"] if speed else []
        parts += [f"{record['quarantined']:,} quarantined"] if record["quarantined"] else []
        parts += [f"{record['skipped']:,} skipped"] if record["skipped"] else []
        return parts


class TuneScreen(_Terminal):
    """A live table of trials; plain lines without a terminal."""

    def __init__(self, goal: Goal, num_trials: int) -> None:
        super().__init__()
        self.goal, self.num_trials = goal, num_trials
        self.rows: dict[str, dict[str, Any]] = {}
        self.live = Live(console=self.console, refresh_per_second=2, get_renderable=self._table)

    def show(self, record: dict[str, Any]) -> None:
        """Add a record of a trial; print it without a terminal."""
        row = self.rows.setdefault(record["id"], {})
        row |= record
        value = record.get("value")
        if value is not None:
            row["best"] = self._best([value, row.get("best", value)])
        if self.console.is_terminal:
            self.live.start()
            return
        reason = record.get("reason")
        if (value is not None and not record.get("is_known")) or reason:
            figure = reason if value is None else f"{self.goal.metric} {value:.4f}"
            epoch = f"epoch {record['epoch']}: " if record.get("epoch") else ""
            self.say(f"{_trial_name(row)}: {epoch}{figure}; best {shown(self._best_of_all())}")

    def _best(self, values: list[float]) -> float | None:
        return (max if self.goal.greater_is_better else min)(values, default=None)

    def _best_of_all(self) -> float | None:
        return self._best([row["best"] for row in list(self.rows.values()) if "best" in row])

    def _table(self) -> Table:
        rows = list(self.rows.values())  # a copy: the search adds rows concurrently
        searched = [row for row in rows if not row["is_final"]]
        ended = sum(row["state"] != "running" for row in searched)
        trials = counted(self.num_trials, "trial")
        title = f"{ended} of {trials}, best {self.goal.metric} {shown(self._best_of_all())}"
        active = sorted(rows, key=lambda row: row["state"] != "running")
        cells = [
            (_trial_name(row), row["state"], str(row.get("epoch") or ""),
             shown(row.get("value")), shown(row.get("best")))
            for row in active[:MAX_TRIAL_ROWS]
        ]  # fmt: skip
        heads = ("trial", "state", "epoch", self.goal.metric, "best")
        return table_of(heads, cells, title, texts=("trial", "state"))


def _trial_name(row: dict[str, Any]) -> str:
    return f"trial {row['trial']}" + (f", seed {row['seed']}" if "seed" in row else "")
