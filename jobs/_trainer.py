"""Ray's trainer with fewer processes, each of which takes seconds of the CPUs that a run has, and more patience."""
# Ray gives its objects no types.
# ruff: noqa: ANN401

import asyncio
from typing import Any

import ray
from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling.default import DefaultFailurePolicy
from ray.train.v2.api.exceptions import ControllerError


class Failures(DefaultFailurePolicy):  # type: ignore[misc] # Ray's classes have no types here.
    """Counts workers that could not be started anew each time that they are needed; Ray counts over the whole run."""

    def make_decision(self, training_failed_error: Any) -> Any:
        """Return what is to be done about a failure."""
        if not isinstance(training_failed_error, ControllerError):
            # Workers were at work.
            self._controller_failures = 0
        return super().make_decision(training_failed_error)


class Trainer(TorchTrainer):  # type: ignore[misc] # Ray's classes have no types here.
    """Directs the workers from this process if it is an actor, as that of a sweep's trial is."""

    def _initialize_and_run_controller(self, **arguments: Any) -> Result:
        arguments["failure_policy"] = Failures(self.run_config.failure_config)
        if ray.get_runtime_context().get_actor_id() is None:
            # To workers and to the dashboard, who directs them is an actor.
            return super()._initialize_and_run_controller(**arguments)
        controller = TrainController(**arguments)
        asyncio.run(controller.run())
        return controller.get_result()

    def _create_default_callbacks(self) -> list[Any]:
        # The cleaner is for placement groups that outlive who directs the workers: Ray removes them when the job ends,
        # and a sweep removes them before (`jobs._tune.free_orphans`).
        there = super()._create_default_callbacks()
        return [callback for callback in there if not isinstance(callback, PlacementGroupCleanerCallback)]
