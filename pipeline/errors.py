"""What stops a run on purpose. Each has an exit code in `jobs/common/exit_codes.py`."""


class InputError(ValueError):
    """Input is missing or damaged. The message names the thing, the rule, and what to do."""


class NonFiniteError(ArithmeticError):
    """Too many steps in a row had a loss or a gradient that must not be learned from; no such update was applied."""


class CorruptionError(RuntimeError):
    """What must be equal is not: memory, a device or a link is at fault."""
