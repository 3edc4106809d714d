"""What stops a run on purpose, and the exit codes; `jobs/common/exit_codes.py` says which error has which."""

from enum import IntEnum

from tokenization.errors import InputError as InputError
from tokenization.errors import OutageError as OutageError


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


class FailedShardsError(RuntimeError):
    """The job finished, but some shards of its corpora could not be read."""


class NonFiniteError(ArithmeticError):
    """Too many steps in a row had a loss or a gradient that must not be learned from; no such update was applied."""


class StoppedError(RuntimeError):
    """A stage was asked to end before its last step, and did."""


class PreemptedError(StoppedError):
    """Its machines are about to be taken away, or somebody stops the job. There is a checkpoint."""


class NodeLostError(PreemptedError):
    """Of the machines some are about to be taken away: with the others it may go on. There is a checkpoint."""


class BudgetError(StoppedError):
    """What it may cost is spent. There is a checkpoint."""


class ResizeError(StoppedError):
    """It is to go on at another number of workers. There is a checkpoint."""


class WorkersLostError(RuntimeError):
    """Workers died, hung or failed in a way that may not happen again; another attempt may get further."""


class CorruptionError(RuntimeError):
    """What must be equal is not: memory, a device or a link is at fault."""


class UsageError(ValueError):
    """A flag or a recipe is wrong. The message names the thing, the rule, and what to do."""
