"""The exit code of each error, the same for every job."""

import pipeline.errors
from pipeline.errors import ExitCode as ExitCode
from pipeline.errors import UsageError

BY_EXCEPTION: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (UsageError, ExitCode.USAGE),
    (pipeline.errors.InputError, ExitCode.INPUT),
    (pipeline.errors.OutageError, ExitCode.INPUT),
    (pipeline.errors.ClusterLostError, ExitCode.INPUT),
    (pipeline.errors.FailedShardsError, ExitCode.FAILED_SHARDS),
    (pipeline.errors.NonFiniteError, ExitCode.NON_FINITE),
    (pipeline.errors.BudgetError, ExitCode.BUDGET),
    (pipeline.errors.PreemptedError, ExitCode.PREEMPTED),
    (pipeline.errors.NotReadyError, ExitCode.NOT_READY),
    (pipeline.errors.StoppedError, ExitCode.OTHER),
    (pipeline.errors.WorkersLostError, ExitCode.OTHER),
    (pipeline.errors.CorruptionError, ExitCode.OTHER),
)
OURS = tuple(kind for kind, _ in BY_EXCEPTION)
"""Their message says it all: no traceback."""


def exit_code_of(error: BaseException) -> ExitCode:
    """Returns the exit code for an exception that ends a job."""
    for kind, code in BY_EXCEPTION:
        if isinstance(error, kind):
            return code
    return ExitCode.OTHER
