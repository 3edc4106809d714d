"""Nodes of a local cluster have labels: what a recipe selects by label runs on these nodes, and on no other."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pipeline.errors import ExitCode
from tests.support.checkout import CHECKOUT
from tests.support.past_run import RECIPE
from tests.support.trainings import Trainings, attempts

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
SELECTOR = {"rack": "a", "ray.io/market-type": "!spot"}

PLACES = """
import json, time, ray
from ray.util.placement_group import placement_group_table

ray.init(log_to_driver=False, logging_level="ERROR")
labels, places, deadline = {node["NodeID"]: node["Labels"] for node in ray.nodes()}, [], time.monotonic() + 120
while not places and time.monotonic() < deadline:
    time.sleep(0.2)
    groups = [row["bundles_to_node_id"] for row in placement_group_table().values() if row["state"] == "CREATED"]
    places = [labels[node].get("rack") for nodes in groups for node in nodes.values()]
print(json.dumps(places))
"""
"""Driver: the rack of each node on which a worker runs, once they are placed."""

ACTORS = """
import json, re, ray
from ray.util.state import list_actors

ray.init(log_to_driver=False, logging_level="ERROR")
labels = {node["NodeID"]: node["Labels"] for node in ray.nodes()}
places = {
    (re.sub(r"\\W", " ", actor.class_name).split()[-1], labels[actor.node_id].get("ray.io/market-type"))
    for actor in list_actors(limit=1000)
    if actor.node_id and re.search("Reader|Encoder", actor.class_name)
}
print(json.dumps(sorted(places)))
"""
"""Driver: the classes of all actors of tokenization that ran, and the market type of their nodes."""


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainings]:
    """Two nodes without labels, two on demand in rack a, and one on spot there."""
    trainings = Trainings(tmp_path_factory.mktemp("trainings"))
    for market in ("on-demand", "on-demand", "spot"):
        trainings.nodes.add_node({"rack": "a", "ray.io/market-type": market})
    yield trainings
    trainings.nodes.stop()


def test_training_runs_on_nodes_with_the_labels_alone(trainings: Trainings) -> None:
    run = trainings.run_of("labelled")
    job = trainings.start(run, f"scaling.label_selector={SELECTOR}")
    command = [sys.executable, "-c", PLACES]
    places = subprocess.run(command, env=trainings.nodes.environment, capture_output=True, text=True, check=True)
    assert json.loads(places.stdout.splitlines()[-1]) == ["a", "a"]
    assert job.wait(timeout=600) == 0, (run / "log").read_text()


def test_with_a_range_only_nodes_with_the_labels_are_counted(trainings: Trainings) -> None:
    run = trainings.run_of("counted")
    selector = {"ray.io/market-type": "spot"}
    bounds = ("scaling.min_workers=1", "scaling.wait_for_all_s=3")
    job = trainings.start(run, f"scaling.label_selector={selector}", *bounds)
    assert job.wait(timeout=600) == 0, (run / "log").read_text()
    assert "1 of 2 workers begin" in (run / "log").read_text()
    assert attempts(run) == [1]


def test_labels_that_no_node_has_are_refused_before_anything_waits(trainings: Trainings) -> None:
    run = trainings.run_of("refused")
    job = trainings.start(run, "scaling.label_selector={'rack': 'b'}")
    assert job.wait(timeout=120) == ExitCode.USAGE, (run / "log").read_text()
    assert (
        "no node of this cluster has rack=b: rack is a, and no autoscaler adds others; change"
        in (run / "log").read_text()
    )


def test_readers_and_encoders_run_on_nodes_with_their_own_labels(trainings: Trainings) -> None:
    run = trainings.run_of("tokenized")
    for tokens in ("tokens", "corpora"):
        shutil.rmtree(run / tokens)
    words = ["jobs/tokenize.py", "--recipe", str(RECIPE), "--root", str(run.parent), "--readers", "2"]
    for value in (
        "tokenizers.reader_label_selector={'ray.io/market-type': 'spot'}",
        "tokenizers.encoder_label_selector={'ray.io/market-type': 'on-demand'}",
    ):
        words += ["--set", value]
    command = [sys.executable, "-P", *words]
    environment = trainings.nodes.environment
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.DONE, done.stderr
    found = subprocess.run([sys.executable, "-c", ACTORS], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout.splitlines()[-1]) == [
        ["Encoder", "on-demand"],
        ["Reader", "spot"],
    ]
