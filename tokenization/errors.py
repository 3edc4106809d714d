"""The one exception for input that cannot be used."""


class InputError(ValueError):
    """Input is missing or damaged. The message names the thing, the rule, and what to do."""
