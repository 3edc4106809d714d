"""What a worker or an actor needs of its node: resources, and node labels by Ray's label selectors."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
KEY = re.compile(rf"(?:{VALUE}/)?{VALUE}")
CONDITION = re.compile(rf"(!?)(?:in\(({VALUE}(?:,{VALUE})*)\)|({VALUE}))")
"""Lists have no spaces: Ray 2.60 takes one as a part of the value, which no label has."""
EXAMPLES = "'spot', '!spot' or 'in(spot,on-demand)'"


@dataclass(frozen=True)
class NodeNeeds:
    """What a worker or an actor needs of its node.

    Attributes:
        resources: amounts by Ray's names.
        label_selector: a condition on the value of each named node label, as in {"ray.io/market-type": "spot"}.
    """

    resources: Mapping[str, float]
    label_selector: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        amounts = ", ".join(f"{amount:g} {kind}" for kind, amount in sorted(self.resources.items()) if amount)
        where = on_a_node(self.label_selector)
        return f"{amounts or 'a process'}{where}" if where else amounts

    def is_same_as(self, other: "NodeNeeds") -> bool:
        """True if the same nodes meet both, however the conditions are written."""
        mine, others = (conditions_of(each.label_selector) for each in (self, other))
        return dict(self.resources) == dict(other.resources) and mine == others

    def count_on(self, resources: Mapping[str, float], labels: Mapping[str, str]) -> int:
        """The number of such workers that a node with these free resources and these labels can hold."""
        if not matches(self.label_selector, labels):
            return 0
        # A resource may be taken in parts such as 0.1, whose sum is not exact.
        shares = (resources.get(kind, 0.0) / amount + 1e-9 for kind, amount in self.resources.items() if amount)
        return min(map(int, shares), default=sys.maxsize)


def conditions_of(selector: Mapping[str, str]) -> dict[str, tuple[bool, frozenset[str]]]:
    """For each label: True if its value must be one of some values, False if none of them, and these values.

    Raises:
        ValueError: a condition is not written as `impossible_selector` wants it.
    """
    found = {}
    for key, condition in selector.items():
        written = CONDITION.fullmatch(condition)
        if not written:
            raise ValueError(f"the condition {condition!r} for the node label {key!r} is not one like {EXAMPLES}")
        negation, several, one = written.groups()
        found[key] = (not negation, frozenset([one] if one else several.split(",")))
    return found


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """True if a node with these labels meets all conditions. A label that a node lacks has no value."""
    conditions = conditions_of(selector)
    return all((labels.get(key) in values) == is_in for key, (is_in, values) in conditions.items())


def is_label(key: str, value: str) -> bool:
    """True if a node label is written so that a selector can name it."""
    return bool(KEY.fullmatch(key) and re.fullmatch(VALUE, value))


def on_a_node(selector: Mapping[str, str]) -> str:
    """The conditions as they follow what is asked for; empty without any."""
    return f" on a node with {shown_labels(selector)}" if selector else ""


def shown_labels(labels: Mapping[str, str]) -> str:
    """Node labels, or the conditions of a selector, for a message."""
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def impossible_selector(name: str, selector: Mapping[str, str]) -> list[str]:
    """Returns one message for each condition that Ray would refuse, or whose meaning it leaves open."""
    found = []
    for key, condition in selector.items():
        if not isinstance(key, str) or not KEY.fullmatch(key):
            found.append(f"{name} has the node label {key!r}; name one as in 'ray.io/market-type' or 'rack'")
        elif not isinstance(condition, str) or not CONDITION.fullmatch(condition):
            found.append(
                f"{name} has {condition!r} for the node label {key!r}; write a value without spaces, as in {EXAMPLES}"
            )
    return found
