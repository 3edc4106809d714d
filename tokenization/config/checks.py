"""Checks that several settings of tokenization share."""

from collections.abc import Iterable, Mapping

RAY_NAMES = ("CPU", "GPU", "memory", "object_store_memory")
"""Resources that have settings of their own."""


def below(minimum: float, settings: object, names: Iterable[str]) -> list[str]:
    """Returns one message for each of the fields of `settings` that is below `minimum`."""
    values = {name: getattr(settings, name) for name in names}
    return [
        f"{name} is {value}, but must be at least {minimum:g}" for name, value in values.items() if not value >= minimum
    ]


def impossible_resources(name: str, resources: Mapping[str, float]) -> list[str]:
    """Returns one message for each custom resource that Ray could never give."""
    found = []
    for resource, amount in resources.items():
        if resource in RAY_NAMES:
            found.append(
                f"{name} has {resource!r}, which is not a custom resource; leave it out, other settings give it"
            )
        elif not isinstance(amount, int | float) or isinstance(amount, bool) or not amount > 0:
            found.append(f"{name} has {amount!r} of {resource!r}, but it must be a number above 0")
        elif amount > 1 and amount != int(amount):
            found.append(f"{name} has {amount:g} of {resource!r}; above 1 it must be a whole number")
    return found
