"""The autoscaler of each file for `ray up`, for real, on one machine: it starts what a job asks for, and lets it go."""

import json

import pytest

from jobs.common.recipe import load_recipe
from tests.conftest import CHECKOUT
from tests.fake_cluster import HEAD_TYPE, FakeCluster

CLUSTERS = CHECKOUT / "cluster"

ASK = """
import json, sys, time
from collections import Counter
import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.util.placement_group import placement_group, remove_placement_group

ray.init(log_to_driver=False, logging_level="ERROR")
address = ray.get_runtime_context().gcs_address

def nodes():
    status = get_cluster_status(address)
    return dict(Counter(node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes]))

before = nodes()
groups = [placement_group([bundle] * count, strategy="PACK") for count, bundle in json.loads(sys.argv[1])]
ray.get([group.ready() for group in groups], timeout=500)
held = nodes()
for group in groups:
    remove_placement_group(group)
deadline = time.monotonic() + 240
while (after := nodes()) != before and time.monotonic() < deadline:
    time.sleep(1)
print(json.dumps([before, held, after]))
"""
"""Driver: asks for placement groups as Ray Train does, and says which nodes there are before, with them, and after."""


def stage_of(recipe: str, *overrides: str) -> list:
    """What a stage of the recipe asks for: workers, and the resources of each."""
    scaling = load_recipe(recipe, overrides).scaling
    return [scaling.num_workers, scaling.resources_per_worker]


def test_stages_start_exactly_the_nodes_they_need_of_the_right_type_and_let_them_go(aws_on_fake_nodes):
    """One of 16 workers, which may run on any GPUs, and one that is to have spot nodes."""
    asked = [
        stage_of("mars_7b", "scaling.num_workers=16"),
        stage_of("mars_1b", "scaling.worker_resources={'A100-80GB': 1, 'spot': 1}"),
    ]
    before, held, after = aws_on_fake_nodes.drive(ASK, json.dumps(asked))
    assert before == after == {HEAD_TYPE: 1}, "idle nodes cost as much as busy ones"
    assert held == {HEAD_TYPE: 1, "p4de_on_demand": 2, "p4de_spot": 1}


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("file", "node"), [("aws_a100", "p4de_on_demand"), ("gcp_a100", "a2_ultra_on_demand")])
def test_the_papers_model_gets_its_eight_nodes(file, node, tmp_path):
    cluster = FakeCluster(CLUSTERS / f"{file}.yaml", tmp_path)
    try:
        before, held, after = cluster.drive(ASK, json.dumps([stage_of("mars_7b")]), timeout=1200)
    finally:
        cluster.stop()
    assert before == after == {HEAD_TYPE: 1}
    assert held == {HEAD_TYPE: 1, node: 8}
