"""What stops a run on purpose. Each has an exit code in `jobs/common/exit_codes.py`."""

from tokenization.errors import InputError as InputError
from tokenization.errors import OutageError as OutageError


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
