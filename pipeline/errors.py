"""Exceptions that stop a run on purpose, and the exit codes; `jobs/common/exit_codes.py` maps one to the other."""

from enum import IntEnum

from tokenization.errors import InputError as InputError
from tokenization.errors import OutageError as OutageError


class ExitCode(IntEnum):
    """The exit code of a job."""

    DONE = 0
    OTHER = 1
    USAGE = 2
    """Wrong usage or recipe."""
    INPUT = 3
    """Bad or missing input, or storage or a cluster that does not answer."""
    FAILED_SHARDS = 4
    BUDGET = 5
    """Stopped at the budget."""
    NON_FINITE = 6
    """Stopped on non-finite numbers."""
    PREEMPTED = 7
    """Preempted, with a checkpoint."""
    NOT_READY = 8
    """The cluster is not ready for the recipe."""


class FailedShardsError(RuntimeError):
    """The job finished, but some shards of its corpora could not be read."""


class NonFiniteError(ArithmeticError):
    """Too many steps in a row had a loss or a gradient that must not be learned from; no such update was applied."""


class StoppedError(RuntimeError):
    """A stage was asked to end before its last step, and did."""


class PreemptedError(StoppedError):
    """The machines are about to be removed, or the job was asked to stop. There is a checkpoint."""


class NodeLostError(PreemptedError):
    """Some of the machines are about to be removed; the run can resume on the others. There is a checkpoint."""


class BudgetError(StoppedError):
    """The budget is spent. There is a checkpoint."""


class ResizeError(StoppedError):
    """The run must resume with another number of workers. There is a checkpoint."""


class WorkersLostError(RuntimeError):
    """Workers died, hung or failed in a way that may not happen again; another attempt may get further."""


class ClusterLostError(Exception):
    """The Ray cluster that the job worked on is gone. The same command resumes on another one."""


class CorruptionError(RuntimeError):
    """Values that must be equal differ: memory, a device or a link is at fault."""


class NotReadyError(RuntimeError):
    """A check before a run has failed."""


class UsageError(ValueError):
    """A flag or a recipe is wrong. The message names the value, the rule, and the remedy."""
