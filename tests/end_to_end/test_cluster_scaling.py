"""The autoscaler of each file for `ray up`, for real, on one machine: it starts what a job asks for, and lets it go."""

import json
import sys
from pathlib import Path

import pytest

from jobs.common.recipes import load_recipe
from tests.support.checkout import CHECKOUT
from tests.support.fake_cluster import HEAD_TYPE, FakeCluster
from tests.support.pictures import noise_png, write_tar
from tests.support.small_run import small_vqgan

CLUSTERS = CHECKOUT / "cluster"
SHARDS, ROWS = 16, 200
"""Enough that the job does not end before its last node has started."""

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
groups = [
    placement_group([bundle] * count, strategy="PACK", bundle_label_selector=[selector] * count)
    for count, bundle, selector in json.loads(sys.argv[1])
]
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

RUN = """
import json, subprocess, sys, time
from collections import Counter
import ray
from ray.autoscaler.v2.sdk import get_cluster_status

ray.init(log_to_driver=False, logging_level="ERROR")
address = ray.get_runtime_context().gcs_address
job = subprocess.Popen(json.loads(sys.argv[1]), stdout=subprocess.PIPE, text=True)
most, left, deadline = Counter(), None, None
while deadline is None or time.monotonic() < deadline:
    status = get_cluster_status(address)
    left = Counter(node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes])
    most |= left
    if deadline is None and job.poll() is not None:
        deadline = time.monotonic() + 240
    if deadline is not None and len(left) == 1:
        break
    time.sleep(0.5)
print(json.dumps([job.returncode, job.stdout.read().splitlines()[-1], most, left]))
"""
"""Driver: runs a job, and says how it ended, the most nodes of each type meanwhile, and those that stay after it."""


def stage_of(recipe: str, *overrides: str) -> list:
    """The workers that a stage of the recipe asks for, with the resources of each, and its label selector."""
    scaling = load_recipe(recipe, overrides).scaling
    return [scaling.num_workers, scaling.worker_resources, scaling.label_selector]


def test_stages_start_exactly_the_nodes_they_need_of_the_right_type_and_let_them_go(
    aws_on_fake_nodes: FakeCluster,
) -> None:
    """Runs a stage of 16 workers, which may run on any GPUs, and a stage that asks for spot nodes.

    Now and then Ray's autoscaler starts one node more (docs/cluster.md); hence up to three tries.
    """
    asked = [
        stage_of("mars_7b", "scaling.num_workers=16"),
        stage_of("mars_1b", "scaling.label_selector={'ray.io/market-type': 'spot'}"),
    ]
    wanted = {HEAD_TYPE: 1, "p4de_on_demand": 2, "p4de_spot": 1}
    for _ in range(3):
        before, held, after = aws_on_fake_nodes.drive(ASK, json.dumps(asked))
        assert before == after == {HEAD_TYPE: 1}, "idle nodes cost as much as busy ones"
        if held == wanted:
            break
    assert held == wanted


NEVER = """
import json, time
import ray
from ray.util.placement_group import placement_group
from pipeline.errors import UsageError
from pipeline.runtime.ray_connection import connect_to_ray
from pipeline.runtime.ray_private import pending_requests
from pipeline.runtime.shortage import check_obtainable, describe
from tokenization.config.node_labels import NodeNeeds

connect_to_ray()
check_obtainable([NodeNeeds({"A100-80GB": 8.0, "CPU": 64.0}, {"ray.io/market-type": "spot"})] * 8, "")
refused, selector = [], {"ray.io/market-type": "in(free,spot)", "rack": "a"}
for needs in (NodeNeeds({"H100": 1.0}), NodeNeeds({"GPU": 1.0}, selector)):
    try:
        check_obtainable([needs], "ask for less")
    except UsageError as error:
        refused.append(str(error))
group, job = placement_group([{"H100": 1.0}] * 2), ray.get_runtime_context().get_job_id()
labelled = placement_group([{"GPU": 1.0}], bundle_label_selector=[selector])
deadline = time.monotonic() + 60
def told():
    return [describe([each]) for each in pending_requests(job)]
while sum("can start none" in line for line in told()) < 3 and time.monotonic() < deadline:
    time.sleep(0.5)
print(json.dumps([*refused, describe(pending_requests(job)), *told()]))
"""
"""Driver: asks for what a node type has, for what none has, and says what it is told while it waits for that."""


def test_what_no_node_type_of_the_autoscaler_has_is_refused_and_told(aws_on_fake_nodes: FakeCluster) -> None:
    """It is refused on the head, where the autoscaler's file is; elsewhere it can only be told."""
    refused, unlabelled, said, *each = aws_on_fake_nodes.drive(NEVER)
    assert (
        "can hold 1 H100: the most on one node are 0 H100, and the autoscaler adds no others; ask for less" in refused
    )
    assert (
        "no node of this cluster has rack=a, ray.io/market-type=in(free,spot): none has the label rack, "
        "ray.io/market-type is on-demand or spot, and the autoscaler adds no others; ask for less" in unlabelled
    )
    assert "2 x (1 H100), 1 GPU on a node with rack=a, ray.io/market-type=in(free,spot) for workers: " in said
    assert "; no node has that now, and the cluster's autoscaler can start none that has" in said
    assert len(each) == 3 and all("can start none" in line for line in each), each


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    small_vqgan(1.0).save_pretrained(folder / "vq")
    for shard in range(SHARDS):
        rows = range(shard * ROWS, (shard + 1) * ROWS)
        samples = [(f"{row:06d}", noise_png(row), {"caption": f"picture {row}"}) for row in rows]
        write_tar(folder / "corpus" / f"{shard:03d}.tar", samples)
    return folder


def nodes_of_tokenization(cluster: FakeCluster, corpus: Path, root: Path, *words: str) -> dict[str, int]:
    """Tokenizes the corpus, and returns the most nodes of each type at once. None may be left."""
    command = [sys.executable, "-P", "jobs/tokenize.py", "--json", "--root", str(root), *words]
    command += ["--corpus", str(corpus / "corpus"), "--captions", "en=caption", "--resolution", "32"]
    command += ["--set", f"vqgan_folder={corpus / 'vq'}", "--encode-batch-size", "2"]
    code, manifest, most, left = cluster.drive(RUN, json.dumps(command), timeout=900)
    assert code == 0 and json.loads(manifest)["rows_out"] == SHARDS * ROWS
    assert left == {HEAD_TYPE: 1}
    return {name: count for name, count in most.items() if name != HEAD_TYPE}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_tokenization_scales_cpu_and_gpu_groups_apart(
    aws_on_fake_nodes: FakeCluster, corpus: Path, tmp_path: Path
) -> None:
    """A reader takes half of a CPU node and an encoder a whole GPU node, so that few processes need many nodes."""
    for encoders, readers, nodes in ((1, 4, {"cpu": 2, "p4de_on_demand": 1}), (2, 1, {"cpu": 1, "p4de_on_demand": 2})):
        words = ["--set", "tokenizers.reader_resources={'decode': 64}", "--readers", str(readers)]
        words += ["--set", "tokenizers.encoder_resources={'A100-80GB': 8}", "--encoders", str(encoders)]
        assert nodes_of_tokenization(aws_on_fake_nodes, corpus, tmp_path / f"{encoders}", *words) == nodes


@pytest.mark.long
def test_tokenization_starts_the_nodes_with_the_labels_that_it_selects(
    aws_on_fake_nodes: FakeCluster, corpus: Path, tmp_path: Path
) -> None:
    words = ["--set", "tokenizers.reader_label_selector={'ray.io/node-group': 'cpu'}", "--readers", "4"]
    words += ["--set", "tokenizers.encoder_label_selector={'ray.io/market-type': 'spot'}", "--encoders", "1"]
    assert nodes_of_tokenization(aws_on_fake_nodes, corpus, tmp_path, *words) == {"cpu": 1, "p4de_spot": 1}


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("file", "node"), [("aws_a100", "p4de_on_demand"), ("gcp_a100", "a2_ultra_on_demand")])
def test_the_papers_model_gets_its_eight_nodes(file: str, node: str, tmp_path: Path) -> None:
    cluster = FakeCluster(CLUSTERS / f"{file}.yaml", tmp_path)
    try:
        before, held, after = cluster.drive(ASK, json.dumps([stage_of("mars_7b")]), timeout=1200)
    finally:
        cluster.stop()
    assert before == after == {HEAD_TYPE: 1}
    assert held == {HEAD_TYPE: 1, node: 8}


STAY = """
import json, sys, time
from collections import Counter
import ray
from ray.autoscaler.v2.sdk import get_cluster_status

ray.init(log_to_driver=False, logging_level="ERROR")
address = ray.get_runtime_context().gcs_address
wanted, seen, deadline = int(sys.argv[1]), [], time.monotonic() + 240
while time.monotonic() < deadline:
    status = get_cluster_status(address)
    seen.append(Counter(node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes]))
    if sum(seen[-1].values()) >= wanted and deadline > time.monotonic() + 20:
        deadline = time.monotonic() + 20
    time.sleep(1)
print(json.dumps([seen[-20], seen[-1]]))
"""
"""Driver: waits for that many nodes, asks for nothing, and says which there are 20 s later."""


@pytest.mark.long
def test_machines_at_hand_are_there_from_the_beginning_and_stay_when_idle(tmp_path: Path) -> None:
    file = tmp_path / "local.yaml"
    file.write_text((CLUSTERS / "local.yaml").read_text().replace("[FILL_IN_WORKER_ADDRESS]", "[10.0.0.2, 10.0.0.3]"))
    cluster = FakeCluster(file, tmp_path, resources={"CPU": 32, "GPU": 8})
    try:
        assert cluster.drive(STAY, "3") == [{HEAD_TYPE: 1, "local.cluster.node": 2}] * 2
    finally:
        cluster.stop()
