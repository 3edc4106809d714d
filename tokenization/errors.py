"""What stops a job on purpose: input that cannot be used, and storage that does not answer."""


class InputError(ValueError):
    """Input is missing or damaged. The message names the thing, the rule, and what to do."""


class OutageError(OSError):
    """A storage service did not answer, or not well, again and again. Later it may. Says nothing of the input."""
