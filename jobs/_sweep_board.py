"""What people see of a sweep while it runs and when it ends."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, get_args

from rich.live import Live
from rich.table import Table

from jobs._console import LINE_EVERY_S, Console, percent
from jobs._metrics import SweepMetrics
from jobs._scores import number as in_percent
from jobs._study import Key, Member, Outcome, Status, Study


class SweepBoard:
    """A table of trials: live on a terminal, lines in a log; and metrics, so it is to be made where Ray runs."""

    def __init__(self, study: Study, console: Console) -> None:
        self._study = study
        self._console = console
        self._metrics = SweepMetrics(study.sweep.sweep_id)
        self._running: dict[Key, tuple[int, float]] = {}
        self._live = Live(console=console.rich, refresh_per_second=2, transient=True)
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.rich.is_terminal:
            self._console.done()
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self._running.clear()
        self.show()

    def started(self, member: Member) -> None:
        """Show that a run was handed out; one that has ended before only reports that again."""
        if not member.ended:
            self._running[member.key] = (0, 0.0)
        self.show()

    def epoch(self, member: Member, result: Mapping[str, Any]) -> None:
        """Show an epoch of a run."""
        epoch, best = int(result.get("epoch", 0)), float(result.get("score", 0.0))
        self._running[member.key] = (epoch, best)
        self.show()
        if not self._console.rich.is_terminal and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._console.say(f"trial {member.key.name}, epoch {epoch}: {self._study.sweep.metric} {percent(best)}")

    def ended(self, member: Member) -> None:
        """Show that a run has ended."""
        self._running.pop(member.key, None)
        outcome = self._study.outcomes.get(member.key)
        if outcome is not None and not self._console.rich.is_terminal:
            why = f" ({outcome.reason})" if outcome.reason else ""
            point = self._study.point(member.key.number, member.key.stage)
            settings = ", ".join(f"{name.split('.')[-1]} {value}" for name, value in point.items())
            self._console.say(
                f"trial {member.key.name} {outcome.status} after {outcome.epochs} epochs, "
                f"{self._study.sweep.metric} {percent(outcome.score)}{why}: {settings}"
            )
        self.show()

    def show(self) -> None:
        """Draw the table anew, and tell the metrics."""
        outcomes = self._study.outcomes.values()
        ended = {state: sum(outcome.status == state for outcome in outcomes) for state in get_args(Status)}
        scores = [outcome.score for outcome in outcomes if outcome.score is not None]
        scores += [score for _, score in self._running.values()]
        self._metrics.show({"running": len(self._running)} | ended, max(scores, default=None))
        if self._live.is_started:
            self._live.update(trials(self._study, self._running))


def trials(study: Study, running: Mapping[Key, tuple[int, float]] | None = None) -> Table:
    """Return a table of all trials that were begun, the best first."""
    names = study.sweep.space.names
    table = Table("trial", f"{study.sweep.metric} %", "epochs", "state", *(name.split(".")[-1] for name in names))
    rows = []
    for number in study.points:
        point, ended = study.point(number), _newest(study, number)
        active = [state for key, state in (running or {}).items() if key.number == number]
        values = [outcome.score or 0.0 for outcome in ended] + [best for _, best in active]
        score = sum(values) / len(values) if values else None
        epochs = max([outcome.epochs for outcome in ended] + [epoch for epoch, _ in active], default=0)
        state = "running" if active else ", ".join(sorted({outcome.status for outcome in ended})) or "waiting"
        rows.append((score, number, epochs, state, [f"{point[name]}" for name in names]))
    for score, number, epochs, state, cells in sorted(rows, key=lambda row: (-(row[0] or -1), row[1])):
        table.add_row(str(number), in_percent(score), str(epochs), state, *cells)
    return table


def _newest(study: Study, number: int) -> list[Outcome]:
    """Return what has ended of a trial; of a member of a population in its newest generation."""
    ended = [outcome for key, outcome in study.outcomes.items() if key.number == number]
    if study.sweep.population is None:
        return ended
    newest = max((outcome.stage for outcome in ended), default="")
    return [outcome for outcome in ended if outcome.stage == newest]
