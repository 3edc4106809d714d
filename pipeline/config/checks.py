"""Checks that several settings share."""

from collections.abc import Iterable


def at_least(minimum: float, settings: object, names: Iterable[str]) -> list[str]:
    """Returns one message for each of the fields of `settings` that is below `minimum`."""
    values = {name: getattr(settings, name) for name in names}
    return [
        f"{name} is {value}, but must be at least {minimum:g}" for name, value in values.items() if not value >= minimum
    ]
