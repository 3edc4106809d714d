"""A selector means to the project what it means to Ray, or jobs would wait for nodes that they were promised."""

import pytest
import ray

from tokenization.config.node_labels import NodeNeeds, impossible_selector, is_label, matches

SPOT = {"ray.io/market-type": "spot", "rack": "a"}


@pytest.mark.parametrize(
    ("selector", "is_met"),
    [
        ({}, True),
        ({"ray.io/market-type": "spot"}, True),
        ({"ray.io/market-type": "!spot"}, False),
        ({"ray.io/market-type": "in(on-demand,spot)"}, True),
        ({"ray.io/market-type": "!in(on-demand,spot)"}, False),
        ({"ray.io/market-type": "spot", "rack": "b"}, False),
        ({"zone": "z"}, False),
        ({"zone": "!z"}, True),
    ],
)
def test_a_node_is_taken_if_its_labels_meet_every_condition(selector: dict[str, str], is_met: bool) -> None:
    assert matches(selector, SPOT) == is_met
    assert not impossible_selector("label_selector", selector)
    ray.remote(label_selector=selector)(NodeNeeds)  # Ray takes it, too


@pytest.mark.parametrize(
    ("key", "condition"),
    [
        ("rack", "a b"),
        ("rack", "in(a, b)"),
        ("rack", ""),
        ("rack", "in()"),
        ("rack", "(a)"),
        ("rack", 1),
        ("-rack", "a"),
        ("a/b/c", "a"),
    ],
)
def test_a_condition_that_ray_refuses_or_leaves_open_is_refused_with_the_label(key: str, condition: str) -> None:
    (problem,) = impossible_selector("scaling.label_selector", {key: condition})
    assert problem.startswith("scaling.label_selector has ") and repr(key) in problem


def test_a_cluster_file_may_give_a_node_only_what_a_selector_can_name() -> None:
    assert is_label("ray.io/market-type", "spot") and not is_label("rack", "!a") and not is_label("the rack", "a")


def test_workers_are_counted_on_nodes_with_the_labels_alone() -> None:
    needs = NodeNeeds({"CPU": 0.1, "GPU": 0.0}, {"rack": "a"})
    assert needs.count_on({"CPU": 0.3}, SPOT) == 3, "0.1 + 0.1 + 0.1 is more than 0.3 in binary"
    assert needs.count_on({"CPU": 64.0}, {"rack": "b"}) == needs.count_on({"CPU": 64.0}, {}) == 0


def test_the_same_needs_are_found_again_however_ray_writes_them() -> None:
    mine = NodeNeeds({"CPU": 1.0}, {"rack": "in(b,a)", "zone": "!z"})
    assert mine.is_same_as(NodeNeeds({"CPU": 1.0}, {"zone": "!in(z)", "rack": "in(a,b)"}))
    assert not mine.is_same_as(NodeNeeds({"CPU": 1.0}, {"zone": "in(z)", "rack": "in(a,b)"}))
    assert not mine.is_same_as(NodeNeeds({"CPU": 2.0}, mine.label_selector))
