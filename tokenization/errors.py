"""The one exception for input that cannot be used."""


class InputError(ValueError):
    """Input is missing or damaged. The message names the thing, the rule, and what to do."""


class OutageError(InputError):
    """A storage service did not answer, or not well, again and again. Later it may."""
