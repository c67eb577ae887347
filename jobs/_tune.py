"""A sweep's trials under Ray Tune: each is a training run of Ray Train, like any other."""
# Ray names the arguments of its callbacks and gives its objects no types.
# ruff: noqa: ANN401, ARG002

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import ray
from ray import tune
from ray.core.generated.gcs_pb2 import ActorTableData, PlacementGroupTableData
from ray.train import UserCallback
from ray.tune import Callback
from ray.tune.execution import class_cache
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher
from ray.util.placement_group import PlacementGroup, remove_placement_group

from fcn_core import storage
from fcn_core.checkpoint import Epoch, RunFolder
from fcn_core.data.audit import Audit
from fcn_core.metrics.rules import Scores
from fcn_core.settings import Run
from fcn_core.training import NonFiniteLossError
from jobs._alone import alone
from jobs._cli import Launch, last_line
from jobs._console import Console
from jobs._metric import Metric
from jobs._ray import CREDENTIALS, on_this_node
from jobs._slots import Slots
from jobs._study import Member, Status
from jobs._train import train_on_cluster, write_run

# Else Tune has secrets among the settings of each trial, which Ray writes to logs and shows to all who may look.
# Workers have them all the same: from the driver's machine, or as `jobs._ray` passes them on.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith(CREDENTIALS)}
)

METRIC = "score"
ENDING_S = 60.0
"""How long a trial waits for one of the same run that outlives its sweep for a moment."""
END_WORKERS_S = 60.0
"""The longest that the workers of a stopped trial are waited for."""
KILL_S = 0.3
"""Ray kills a process within a tenth of a second after it has called it dead."""
FREE_EVERY_S = 2.0
"""Time between looks for CPUs that nobody holds any more."""


def open_slots(number: int) -> Any:
    """Return the handle of a new actor `Slots`, on the node of this process so that neither is lost alone."""
    options = {"num_cpus": 0, "scheduling_strategy": on_this_node(), "max_concurrency": 10_000}
    return ray.remote(Slots).options(**options).remote(number)


def train_member(
    config: Mapping[str, Any], *, launch: Launch, audits: Sequence[Audit], metric: Metric, slots: Any
) -> None:
    """Train a run to its end and report each of its epochs; those of before it was interrupted first."""
    run = Run.model_validate(config["run"])
    # The cluster is there, and held the workers when the sweep began: if not now, they wait for nodes.
    os.environ.setdefault("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    try:
        if not config["ended"]:
            ray.get(slots.take.remote(run.run_id))
        _train(run, launch, audits, metric, ended=config["ended"])
    except NonFiniteLossError as error:
        tune.report({METRIC: 0.0, "epoch": run.optim.last_epoch, "diverged": str(error)})
    except Exception as error:
        # Raised, it would be tried again, to no avail: what can pass was tried again by Ray Train.
        tune.report({METRIC: 0.0, "epoch": 0, "failed": last_line(error)})


def _train(run: Run, launch: Launch, audits: Sequence[Audit], metric: Metric, *, ended: bool) -> None:
    url = storage.join(storage.absolute(launch.storage), "runs", run.run_id)
    folder, console, audited = RunFolder(url), Console(), audits[run.data.fold or 0]
    write_run(folder, run, audited)
    seen: list[Scores] = []
    for epoch in folder.known_epochs():
        seen.append(epoch.scores)
        tune.report({**_numbers(epoch), METRIC: metric.of(seen) or 0.0})
    if not ended:
        # Sweeps that differ in how they search may have runs in common.
        with alone(url, f"run {run.run_id}", console.say, ENDING_S):
            train_on_cluster(run, launch, url, audited, console, [_Report(metric, seen)])


class _Report(UserCallback):  # type: ignore[misc] # Ray's classes have no types here.
    """Reports to Tune what workers report, with the score so far; in the process of the trial, as `Trainer` has it.

    Not Ray's `TuneReportCallback`: what it brings while the function of the trial returns is put into a queue of one
    place by the only thread that empties it, and the trial waits for ever.
    """

    def __init__(self, metric: Metric, seen: list[Scores]) -> None:
        self._metric = metric
        self._seen = seen

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        self._seen.append(Scores.model_validate({name: metrics[0][name] for name in Scores.model_fields}))
        tune.report({**_scalars(metrics[0]), METRIC: self._metric.of(self._seen) or 0.0})


class _NotPickled:
    """Tune pickles what it is given; nothing here is read back, since the sweep's own folder has it all."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Suggestions(_NotPickled, Searcher):  # type: ignore[misc] # Ray's classes have no types here.
    """Hands members to Tune."""

    def __init__(self, next_member: Callable[[], Member | Literal["wait"] | None]) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._next_member = next_member
        self.by_trial: dict[str, Member] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the settings of the next member; Tune asks again later if that is None."""
        member = self._next_member()
        if member is None:
            return str(Searcher.FINISHED)
        if member == "wait":
            return None
        self.by_trial[trial_id] = member
        return {"run": member.run.model_dump(mode="json"), "ended": member.ended}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: `Watch` has been told."""

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class Watch(_NotPickled, Callback):  # type: ignore[misc] # Ray's classes have no types here.
    """Tells the sweep what its trials do."""

    def __init__(
        self,
        suggestions: Suggestions,
        show: Callable[[Member, Mapping[str, Any]], None],
        ended: Callable[[Member, Status | None, str], None],
        slots: Any,
    ) -> None:
        self._suggestions = suggestions
        self._slots = slots
        self._show = show
        self._ended = ended
        self._looked = time.monotonic()

    def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        """Give back what trials held whose process died."""
        if time.monotonic() - self._looked >= FREE_EVERY_S:
            free_orphans()
            self._looked = time.monotonic()

    def on_trial_result(
        self, iteration: int, trials: Sequence[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Show an epoch."""
        self._show(self._suggestions.by_trial[trial.trial_id], result)

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        """Tell that a run has ended, by itself or because it was stopped."""
        last, member = trial.last_result or {}, self._suggestions.by_trial[trial.trial_id]
        if last.get("epoch") != member.run.optim.last_epoch:
            end_workers(trial)
        statuses: tuple[Status, ...] = ("diverged", "failed")
        found = next((status for status in statuses if status in last), None)
        self._end(member, found, last[found] if found else "")

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        """Tell that a run was lost too often."""
        self._end(self._suggestions.by_trial[trial.trial_id], "failed", last_line(trial.get_pickled_error()))

    def _end(self, member: Member, status: Status | None, reason: str) -> None:
        self._ended(member, status, reason)
        self._slots.leave.remote(member.run.run_id)


def scheduler(name: str, epochs: int, grace: int) -> TrialScheduler:
    """Return the scheduler of that name."""
    if name == "asha":
        return AsyncHyperBandScheduler(
            time_attr="epoch",
            max_t=epochs,
            grace_period=min(grace, epochs),
            reduction_factor=3,
            # What has reached its last epoch is left to end by itself.
            stop_last_trials=False,
        )
    if name == "median":
        return MedianStoppingRule(time_attr="epoch", grace_period=grace, min_samples_required=3)
    return FIFOScheduler()


def end_workers(trial: Any) -> None:
    """End the workers of a trial that is stopped, before its outcome is read and its place given to the next one.

    Tune ends its process later, and Ray ends the workers after that: until then they would train on.
    """
    if (actor := trial.temporary_state.ray_actor) is None:
        return
    whose = actor._actor_id.binary()  # noqa: SLF001 -- Ray has no other way to tell.
    groups = {group.placement_group_id for group in _groups() if group.creator_actor_id == whose}
    for group in groups:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group)))
    end = time.monotonic() + END_WORKERS_S
    while groups and time.monotonic() < end:
        rows = _accessor().get_actor_table(None, "ALIVE")
        if groups.isdisjoint(ActorTableData.FromString(row).placement_group_id for row in rows):
            time.sleep(KILL_S)
            return
        time.sleep(0.05)


def free_orphans() -> None:
    """Remove the placement groups of this job whose creator, the actor of a trial that directed workers, is dead.

    Ray keeps such a group, and the CPUs of its workers, until the job ends. Train's own cleaner, which `Trainer` does
    without, asks the dashboard who is alive, which a Ray of our own does not have, and learns of a group only when all
    its workers have started.
    """
    # Of groups that no actor made, such as Tune's own, Ray says that it is dead.
    nobody = (b"", ray.ActorID.nil().binary())
    for group in _groups():
        if group.creator_actor_dead and group.creator_actor_id not in nobody:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def _groups() -> Iterator[PlacementGroupTableData]:
    """Yield the placement groups of this job; the public table of them does not tell whose they are."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id()).binary()
    for row in _accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(row)
        if group.creator_job_id == job and group.state != PlacementGroupTableData.REMOVED:
            yield group


def _accessor() -> Any:
    return ray._private.state.state._connect_and_get_accessor()  # noqa: SLF001 -- Ray has no other way to tell.


def _numbers(epoch: Epoch) -> dict[str, Any]:
    return _scalars(epoch.model_dump(exclude={"scores"}) | epoch.scores.model_dump())


def _scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float | str)}
