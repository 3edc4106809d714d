"""Errors that end a job: input that cannot be used, and storage that does not answer."""


class InputError(ValueError):
    """Input is missing or damaged. The message names the thing, the rule, and what to do."""


class OutageError(OSError):
    """A storage service repeatedly failed to answer. A later attempt may succeed; the input may be intact."""
