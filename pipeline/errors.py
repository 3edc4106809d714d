"""What stops a run on purpose. Each has an exit code in `jobs/common/exit_codes.py`."""


class InputError(ValueError):
    """Input is missing or damaged. The message names the thing, the rule, and what to do."""


class NonFiniteError(ArithmeticError):
    """A loss is NaN or infinite; the update was not applied. (DeepSpeed skips the update where only a gradient is.)"""
