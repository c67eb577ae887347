"""What people see of a sweep, without Ray: the live table, and what is left when it ends."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from fcn_core.checkpoint import RunFolder
from fcn_core.settings import Run
from jobs._cli import Resources
from jobs._console import Console
from jobs._metric import Metric
from jobs._scores import number, span
from jobs._space import Range, Space
from jobs._study import Key, Member, Place, Study, Sweep
from jobs._sweep_board import SweepBoard
from jobs._sweep_report import SweepReport, _ended, report_sweep
from jobs._tracking import Ended
from tests.jobs.commands import WithoutRay, write_run
from tests.tiny import changed, train

RATES = Space(dimensions={"optim.learning_rate": Range(low=0.01, high=0.1, log=True)})
SWEEP = Sweep(
    run=changed({"optim.epochs": 1, "data.streets.num_val": 6}),
    space=RATES,
    method="even",
    scheduler="asha",
    grace_epochs=1,
    seeds=2,
    staged=False,
)
"""Of two seeds: there is a deviation to show."""


class Lab:
    """A storage with a sweep of four trials: two finished, one diverged, one stopped before its first epoch."""

    def __init__(self, place: Path) -> None:
        self.place = place
        url = f"{place}/sweeps/{SWEEP.sweep_id}"
        self.study = Study(SWEEP, Place(url), f"{place}/runs", 4, Metric(last=False))
        self.url = url

    def finish(self) -> None:
        while isinstance(member := self.study.next(), Member):
            if member.key.number < 2:
                self._train(member.run)
            self.study.ended(member, "diverged" if member.key.number == 2 else None, "the loss is inf")

    def _train(self, run: Run) -> None:
        write_run(train(run, self.place / "runs" / run.run_id).url, run)

    def report(self, finalists: int) -> SweepReport:
        with Console() as console:
            resources = Resources(storage=str(self.place))
            return report_sweep(self.study, self.url, resources, finalists, console, WithoutRay())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    lab.finish()
    return lab


def test_the_table_has_intervals_and_the_figures_are_drawn(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    report = lab.report(2)
    printed = capsys.readouterr().out
    best, second = report.finalists
    assert best.score.low is not None
    assert best.score.high is not None
    assert best.score.low < best.score.high
    assert best.less_than_best is None
    assert second.less_than_best is not None
    rows = {line.split()[0]: line for line in printed.splitlines() if re.match(r" +\d ", line)}
    for one in report.finalists:
        spread = lab.study.spread(one.number, "")
        assert f"{number(lab.study.score(one.number))} ± {number(spread)}" in rows[str(one.number)]
        assert f" {span(one.score)} " in rows[str(one.number)]
        assert "finished" in rows[str(one.number)]
    for trial, state in ((2, "diverged"), (3, "stopped")):
        assert rows[str(trial)].split()[:5] == [str(trial), "0.0", "±", "0.0", "-"]
        assert state in rows[str(trial)]
    assert f"{span(second.less_than_best)} to the best" in printed
    assert f"best run     {report.best_run}" in printed
    assert SweepReport.model_validate_json((Path(lab.url) / "sweep.json").read_text()) == report
    for figure in ("parallel_coordinates", "learning_rate"):
        with Image.open(Path(lab.url) / "figures" / f"{figure}.png") as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("L").getcolors() or ()) > 20


def test_without_finalists_there_are_no_intervals(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    report = lab.report(0)
    assert (report.finalists, report.best_run, report.rule) == ((), None, "")
    assert " to the best" not in capsys.readouterr().out
    assert json.loads((Path(lab.url) / "sweep.json").read_text())["finalists"] == []


def test_mlflow_is_told_how_each_run_ended(lab: Lab) -> None:
    told = list(_ended(lab.study, str(lab.place)))
    assert [one.status for one in told] == ["FINISHED"] * 4 + ["FAILED"] * 2 + ["KILLED"] * 2
    run = lab.study.member(Key(1, 1)).run
    tags = {"fcn.sweep": SWEEP.sweep_id, "fcn.trial": "0001-1-0"}
    assert told[3] == Ended(RunFolder(f"{lab.place}/runs/{run.run_id}").url, "FINISHED", tags)


def test_the_live_table_follows_the_trials_and_goes_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    lab = Lab(tmp_path)
    with Console() as console, SweepBoard(lab.study, console) as board:
        member = lab.study.next()
        assert isinstance(member, Member)
        board.started(member)
        board._live.refresh()
        assert "running" in capsys.readouterr().out
        board.epoch(member, {"epoch": 1, "score": 0.123})
        board._live.refresh()
        assert "12.3" in capsys.readouterr().out
        lab.study.ended(member, "diverged", "the loss is inf")
        board.ended(member)
        board._live.refresh()
        assert "diverged" in capsys.readouterr().out
    assert not board._live.is_started
    # The lines of the table are erased.
    assert "\x1b[2K" in capsys.readouterr().out


def test_in_a_log_each_end_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = Lab(tmp_path)
    with Console() as console, SweepBoard(lab.study, console) as board:
        member = lab.study.next()
        assert isinstance(member, Member)
        board.started(member)
        lab.study.ended(member, "diverged", "the loss is inf")
        board.ended(member)
    rate = lab.study.points[0]["optim.learning_rate"]
    assert capsys.readouterr().out == (
        f"trial 0000-0-0 diverged after 0 epochs, mean_iou 0.0 % (the loss is inf): learning_rate {rate}\n"
    )
