"""Looking at the arguments of a command without carrying it out: `python -m jobs._check evaluate RUN --split test`.

The experiment service asks so before it submits a command, and gets the line that the command itself would print.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial

from jobs._ceiling import CeilingCommand
from jobs._cli import Settings, fail, parse, read
from jobs._compare import CompareCommand
from jobs._evaluate import EvaluateCommand
from jobs._models import ModelsCommand
from jobs._promote import PromoteCommand
from jobs._receptive_field import ReceptiveFieldCommand
from jobs._staged import StagedCommand
from jobs._sweep import SweepCommand

OTHERS: dict[str, type[Settings]] = {
    "ceiling": CeilingCommand,
    "compare": CompareCommand,
    "evaluate": EvaluateCommand,
    "models": ModelsCommand,
    "promote": PromoteCommand,
    "receptive_field": ReceptiveFieldCommand,
    "sweep": SweepCommand,
    "train_staged": StagedCommand,
}
Check = Callable[[Sequence[str]], object]
CHECKS: dict[str, Check] = {
    "train_fcn32s": partial(parse, stride=32),
    "train_fcn16s": partial(parse, stride=16),
    "train_fcn8s": partial(parse, stride=8),
} | {name: partial(read, command) for name, command in OTHERS.items()}
"""What looks at the arguments of each command, and leaves with one line and exit code 2 if they are wrong."""


def main(arguments: Sequence[str]) -> None:
    """Look at the arguments of a command, whose name comes first."""
    name, *rest = arguments or [""]
    if name not in CHECKS:
        fail(f"no command {name!r}; commands are {', '.join(sorted(CHECKS))}")
    CHECKS[name](rest)


if __name__ == "__main__":
    main(sys.argv[1:])
