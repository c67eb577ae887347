"""What people see while a run goes on: a live display on a terminal, plain lines in a job's log."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from fcn_core.checkpoint import Epoch
from fcn_core.training import Progress

LINE_EVERY_S = 30.0
"""Time between plain lines of progress within an epoch."""
LOG_WIDTH = 160


class Console:
    """Shows messages, progress and finished epochs."""

    def __init__(self) -> None:
        # Names of classes and paths are shown as they are, with whatever brackets and colons they have.
        self.rich = RichConsole(highlight=False, soft_wrap=True, markup=False, emoji=False)
        if not self.rich.is_terminal:
            # Logs have no edge: the columns of a table need not be cut.
            self.rich.width = LOG_WIDTH
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self.rich,
            transient=True,
            disable=not self.rich.is_terminal,
        )
        self._task: TaskID | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, message: str) -> None:
        """Print a line."""
        self.rich.print(message)

    def show(self, item: object) -> None:
        """Show what came over the board, as far as it is for people."""
        match item:
            case str():
                self.say(item)
            case Progress():
                facts = f"loss {item.loss:.3f}, {item.images_per_s:.1f} images/s"
                self.count(f"epoch {item.epoch} of {item.epochs}, step", item.step, item.steps, facts)
            case Epoch():
                self.say(_line(item))
            case _:
                pass

    def count(self, what: str, done: int, of: int, facts: str = "") -> None:
        """Show how much of something is done."""
        if self._task is None:
            self._task = self._bar.add_task(what, total=of, facts=facts)
        self._bar.update(self._task, description=what, completed=done, total=of, facts=facts)
        if not self.rich.is_terminal and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._last_line = time.monotonic()
            self.say(f"{what} {done} of {of}{', ' if facts else ''}{facts}")

    def done(self) -> None:
        """Take the bar away: what it counted is over."""
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def percent(share: float | None) -> str:
    """Return a share from 0 to 1 as people read it."""
    return "none" if share is None else f"{100 * share:.1f} %"


def _line(epoch: Epoch) -> str:
    return (
        f"epoch {epoch.epoch:3d}  loss {epoch.train_loss:.4f}  mean IoU {percent(epoch.scores.mean_iou)}  "
        f"pixel accuracy {percent(epoch.scores.pixel_accuracy)}  {epoch.images_per_s:.1f} images/s  "
        f"{epoch.seconds:.1f} s"
    )
