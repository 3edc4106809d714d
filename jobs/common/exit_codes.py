"""Exit codes, the same for every job."""

from enum import IntEnum

import pipeline.errors
from pipeline.errors import UsageError


class ExitCode(IntEnum):
    """How a job ended."""

    DONE = 0
    OTHER = 1
    USAGE = 2
    """Wrong usage or recipe."""
    INPUT = 3
    """Bad or missing input."""
    FAILED_SHARDS = 4
    BUDGET = 5
    """Stopped at the budget."""
    NON_FINITE = 6
    """Stopped on non-finite numbers."""
    PREEMPTED = 7
    """Preempted, with a checkpoint."""


BY_EXCEPTION: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (UsageError, ExitCode.USAGE),
    (pipeline.errors.InputError, ExitCode.INPUT),
    (pipeline.errors.OutageError, ExitCode.INPUT),
    (pipeline.errors.FailedShardsError, ExitCode.FAILED_SHARDS),
    (pipeline.errors.NonFiniteError, ExitCode.NON_FINITE),
    (pipeline.errors.BudgetError, ExitCode.BUDGET),
    (pipeline.errors.PreemptedError, ExitCode.PREEMPTED),
    (pipeline.errors.StoppedError, ExitCode.OTHER),
    (pipeline.errors.CorruptionError, ExitCode.OTHER),
)
OURS = tuple(kind for kind, _ in BY_EXCEPTION)
"""Their message says it all: no traceback."""


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code for an exception that ends a job."""
    for kind, code in BY_EXCEPTION:
        if isinstance(error, kind):
            return code
    return ExitCode.OTHER
