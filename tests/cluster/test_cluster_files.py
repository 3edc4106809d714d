"""Cluster files are right before they cost anything, and a dry run says what a job will ask of one."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import tyro
import yaml

from cluster.checks import aws_problems, gcp_problems, problems_of
from cluster.cluster_file import read_cluster_file
from jobs import check_cluster, evaluate, init_model, preflight, tokenize, train_stage
from jobs.common.recipes import load_recipe
from pipeline.errors import UsageError
from tests.support.checkout import CHECKOUT
from tests.support.cluster_files import AWS, CLUSTERS, GCP, LOCAL, filled
from tests.support.kuberay_schema import check_pod_template, manifest

RAY_CLUSTER = CLUSTERS / "kuberay" / "raycluster.yaml"
RAY_JOBS = sorted((CLUSTERS / "kuberay").glob("rayjob_*.yaml"))
CRON_JOB = CLUSTERS / "kuberay" / "raycronjob_evaluate.yaml"
RAY_UP = [AWS, GCP, LOCAL]
ACCELERATOR, MARKET = "ray.io/accelerator-type", "ray.io/market-type"


def node_types(path: Path) -> dict:
    types: dict = read_cluster_file(str(path)).config["available_node_types"]
    return types


def options_of(entrypoint: str) -> list[str]:
    return shlex.split(entrypoint)[1:]


@pytest.mark.parametrize("path", [*RAY_UP, RAY_CLUSTER, CRON_JOB], ids=lambda path: path.stem)
def test_a_file_is_refused_until_it_is_filled_in_and_the_lines_are_named(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = path.read_text().splitlines()
    found = problems_of(read_cluster_file(str(path)))
    assert found
    for problem in found:
        line, name = int(problem.split(":")[1]), problem.split()[1]
        assert name in lines[line - 1]
    with pytest.raises(UsageError, match=f"{len(found)} problems to fix"):
        check_cluster.main(check_cluster.Options((str(path),)))
    assert f"{path}:{found[0].split(':')[1]}: FILL_IN" in capsys.readouterr().err.replace("\n", "")
    check_cluster.main(check_cluster.Options((str(filled(path, tmp_path)),)))


@pytest.mark.parametrize("path", [*RAY_UP, RAY_CLUSTER, *RAY_JOBS], ids=lambda path: path.stem)
def test_the_head_of_a_file_says_what_it_is_what_for_and_what_it_costs(path: Path) -> None:
    head = path.read_text().split("\n\n")[0].split("\napiVersion")[0]
    for said in ("# Shape ", "# For ", "# Costs   a day: ", "# Fill in "):
        assert said in head, said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("head_node_type: head", "head_node_type: main"), "head_node_type"),
        (("max_workers: 24", "max_worker: 24"), "max_worker"),
        (("type: aws", "type: amazon"), "amazon"),
        (("InstanceType: c6i", "InstanceTyp: c6i"), "InstanceTyp"),
        (("c6i.32xlarge\n", "c6i.33xlarge\n"), "c6i.33xlarge"),
        (("NetworkCardIndex: 3", "NetworkCardIndex: 2"), "network cards 0 to 3"),
        (("MarketType: spot", "MarketType: Spot"), "InstanceMarketOptions.MarketType"),
        (("max_workers: 8", "max_workers: 80"), "max_workers 80"),
        (("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"), "runs code"),
        (("head_node_type: head", "head_node_type: [head"), "no YAML"),
        (("node-group: cpu}", "node-group: c p u}"), "the label ray.io/node-group=c p u cannot be selected"),
    ],
)
def test_what_ray_up_would_trip_over_after_minutes_is_found_before(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    path = filled(AWS, tmp_path, change)
    with pytest.raises(UsageError) as refused:
        found = problems_of(read_cluster_file(str(path)))
        raise UsageError("; ".join(found) or "nothing was found")
    assert message in str(refused.value)


def test_every_node_of_aws_is_one_that_run_instances_takes(tmp_path: Path) -> None:
    for name, entry in node_types(filled(AWS, tmp_path)).items():
        assert not aws_problems(entry["node_config"]), name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"machineTyp": "a2-highgpu-8g"}, "does not know machineTyp"),
        ({"scheduling": [{"preemptible": True}]}, "scheduling is a list"),
        ({"scheduling": {"provisioningModel": "spot"}}, "provisioningModel is 'spot'"),
        ({"networkInterfaces": [{"nicType": "EFA"}]}, "nicType"),
        ({"metadata": {"items": [{"key": "a", "value": True}]}}, "value is a bool"),
    ],
)
def test_a_node_that_compute_engine_would_refuse_is_found(config: dict[str, Any], message: str) -> None:
    assert message in "; ".join(gcp_problems(config))


def test_gpu_nodes_of_aws_are_of_both_sizes_on_demand_and_spot_beside_each_other_with_efa() -> None:
    types = node_types(AWS)
    kinds = {
        (entry["node_config"]["InstanceType"], entry["node_config"].get("InstanceMarketOptions", {}).get("MarketType"))
        for entry in types.values()
        if entry["resources"].get("GPU")
    }
    sizes = ("p4d.24xlarge", "p4de.24xlarge")
    assert kinds == {(size, market) for size in sizes for market in (None, "spot")}
    for name, entry in types.items():
        if entry["resources"].get("GPU"):
            assert [one["InterfaceType"] for one in entry["node_config"]["NetworkInterfaces"]] == ["efa"] * 4
            assert entry["node_config"]["Placement"]["GroupName"]
            assert "--device=/dev/infiniband" in entry["docker"]["worker_run_options"], name
            model = "A100-80GB" if entry["node_config"]["InstanceType"].startswith("p4de") else "A100-40GB"
            assert entry["resources"][model] == entry["resources"]["GPU"] == 8
            market = entry["node_config"].get("InstanceMarketOptions", {}).get("MarketType", "on-demand")
            assert entry["labels"] == {ACCELERATOR: model.removesuffix("B"), MARKET: market}


def test_gpu_nodes_of_google_cloud_are_of_both_sizes_on_demand_and_spot() -> None:
    kinds = {
        (entry["node_config"]["machineType"], entry["node_config"]["scheduling"].get("provisioningModel"))
        for entry in node_types(GCP).values()
        if entry["resources"].get("GPU")
    }
    assert kinds == {(size, market) for size in ("a2-highgpu-8g", "a2-ultragpu-8g") for market in (None, "SPOT")}


@pytest.mark.parametrize("path", RAY_UP, ids=lambda path: path.stem)
def test_no_cluster_is_open_unpinned_or_without_a_token(path: Path) -> None:
    config = read_cluster_file(str(path)).config
    assert "@sha256:" in config["docker"]["image"]
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    shared = [config["docker"], *(entry.get("docker", {}) for entry in config["available_node_types"].values())]
    for options in shared:
        for key in options:
            if key.endswith("_run_options"):
                assert any(option.startswith("--shm-size=") for option in options[key])
    for command in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert config[command] == [], "Ray's defaults would install another Ray"


def test_kuberays_manifests_are_what_its_crds_admit(tmp_path: Path) -> None:
    for path in (RAY_CLUSTER, CRON_JOB, *RAY_JOBS):
        content = yaml.safe_load(filled(path, tmp_path).read_text())
        jsonschema.validate(content, manifest(content["kind"]))
    spec = yaml.safe_load(RAY_CLUSTER.read_text())["spec"]
    nightly = yaml.safe_load(CRON_JOB.read_text())["spec"]["jobTemplate"]["rayClusterSpec"]
    for each in (spec, nightly):
        for group in (each["headGroupSpec"], *each["workerGroupSpecs"]):
            check_pod_template(group["template"])
            user = group["template"]["spec"]["securityContext"]
            assert user == {"runAsUser": 1000, "fsGroup": 1000}, "the image's user cannot write the runs' folder"
    assert spec["autoscalerOptions"]["version"] == "v2" and spec["authOptions"] == {"mode": "token"}
    markets = {
        group["template"]["spec"].get("nodeSelector", {}).get("karpenter.sh/capacity-type")
        for group in spec["workerGroupSpecs"]
    }
    assert markets == {None, "on-demand", "spot"}


@pytest.mark.parametrize(("old", "new"), [("maxReplicas: 8", "maxReplica: 8"), ("version: v2", "version: v3")])
def test_a_manifest_that_kubernetes_would_refuse_is_found(old: str, new: str) -> None:
    content = yaml.safe_load(RAY_CLUSTER.read_text().replace(old, new, 1))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, manifest("RayCluster"))


def test_a_pod_that_kubernetes_would_refuse_is_found() -> None:
    content = yaml.safe_load(RAY_CLUSTER.read_text().replace("workingDir:", "workDir:", 1))
    with pytest.raises(kubernetes_validate.ValidationError, match="workDir"):
        check_pod_template(content["spec"]["headGroupSpec"]["template"])


def test_rayjobs_run_tokenization_and_each_stage_with_options_that_the_jobs_know() -> None:
    asked = {}
    for path in RAY_JOBS:
        content = yaml.safe_load(path.read_text())
        entrypoint = content["spec"]["entrypoint"]
        job = {"jobs/tokenize.py": tokenize, "jobs/train_stage.py": train_stage}[shlex.split(entrypoint)[0]]
        options = tyro.cli(job.Options, args=options_of(entrypoint))
        load_recipe(options.recipe, options.set)
        asked[path.stem] = getattr(options, "stage", "tokens")
        name = yaml.safe_load(RAY_CLUSTER.read_text())["metadata"]["name"]
        assert content["spec"]["clusterSelector"] == {"ray.io/cluster": name}
    assert asked == {"rayjob_tokenize": "tokens", "rayjob_stage1": "1", "rayjob_stage2": "2", "rayjob_stage3": "3"}


def test_the_nightly_evaluation_has_options_that_the_job_knows_and_what_its_way_of_submission_admits() -> None:
    spec = yaml.safe_load(CRON_JOB.read_text())["spec"]["jobTemplate"]
    assert shlex.split(spec["entrypoint"])[0] == "jobs/evaluate.py"
    options = tyro.cli(evaluate.Options, args=options_of(spec["entrypoint"]))
    load_recipe(options.recipe, options.set)
    # KubeRay refuses these together with a sidecar that submits.
    assert spec["submissionMode"] == "SidecarMode"
    assert not {"clusterSelector", "submitterConfig", "submitterPodTemplate"} & spec.keys()
    assert spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert spec["rayClusterSpec"]["rayVersion"] == yaml.safe_load(RAY_CLUSTER.read_text())["spec"]["rayVersion"]


def plan_of(cluster: Path, *overrides: str) -> dict:
    options = train_stage.Options(recipe="mars_7b", set=overrides, dry_run=True, stage="1", cluster=str(cluster))
    plan = train_stage.main(options)
    assert plan is not None
    asked: dict = plan["cluster"]
    return asked


ON_DEMAND = f"{{'{ACCELERATOR}': 'A100-80G', '{MARKET}': 'on-demand'}}"
SPOT = f"{{'{ACCELERATOR}': 'A100-80G', '{MARKET}': '!on-demand'}}"


@pytest.mark.parametrize(
    ("on_demand", "spot"),
    [
        (f"scaling.label_selector={ON_DEMAND}", f"scaling.label_selector={SPOT}"),
        (  # as recipes did before Ray had labels
            "scaling.custom_resources={'A100-80GB': 1, 'on_demand': 1}",
            "scaling.custom_resources={'A100-80GB': 1, 'spot': 1}",
        ),
    ],
    ids=["labels", "resources"],
)
@pytest.mark.parametrize(
    ("cluster", "node"), [(AWS, "p4de_on_demand"), (GCP, "a2_ultra_on_demand"), (RAY_CLUSTER, "a100-80gb-on-demand")]
)
def test_a_dry_run_names_the_nodes_that_a_stage_will_ask_for(
    cluster: Path, node: str, on_demand: str, spot: str
) -> None:
    asked = plan_of(cluster, on_demand)
    assert asked["nodes"] == {node: 8} and not asked["warnings"]
    found = plan_of(cluster, spot, "scaling.num_workers=16")["nodes"]
    assert [(name.replace("_", "-")[-5:], count) for name, count in found.items()] == [("-spot", 2)]


def test_a_dry_run_warns_where_a_stage_could_get_gpus_that_are_too_small() -> None:
    (warning,) = plan_of(AWS)["warnings"]
    assert "p4d_on_demand, p4d_spot" in warning and "A100-80GB" in warning
    remedy = re.search("--set (.*)$", warning)
    assert remedy and not plan_of(AWS, remedy[1].replace('"', ""))["warnings"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("scaling.cpus_per_worker=100",), "CPU 100, and no type has more than 128|no node type can hold a single one"),
        (("scaling.custom_resources={'H100-80GB': 1}",), "H100-80GB 1, and no type has more than 0"),
        (("scaling.num_workers=256",), "holds 192 at most"),
        ((f"scaling.label_selector={ON_DEMAND}", "scaling.num_workers=72"), f"{MARKET}=on-demand: .* 64 at most"),
        (
            (f"scaling.label_selector={{'{ACCELERATOR}': 'H100'}}",),
            f"on a node with {ACCELERATOR}=H100: no node type has such labels: cpu has ray.io/node-group=cpu; p4de",
        ),
        ((f"scaling.label_selector={ON_DEMAND}", "scaling.cpus_per_worker=100"), "CPU 100, and no type has .* than 96"),
        (("scaling.custom_resources={'spot': 1, 'on_demand': 1}",), "no node type can hold a single one"),
    ],
)
def test_a_dry_run_says_when_a_cluster_can_never_give_what_a_stage_asks_for(
    overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match="can never provide these nodes") as refused:
        plan_of(AWS, *overrides)
    assert re.search(message, str(refused.value))


@pytest.mark.parametrize(
    ("readers", "encoders"),
    [
        (
            "tokenizers.reader_label_selector={'ray.io/node-group': 'cpu'}",
            f"tokenizers.encoder_label_selector={ON_DEMAND}",
        ),
        ("tokenizers.reader_resources={'decode': 0.25}", "tokenizers.encoder_resources={'A100-80GB': 1}"),
    ],
    ids=["labels", "resources"],
)
def test_a_dry_run_of_tokenization_names_cpu_and_gpu_nodes_apart(
    readers: str, encoders: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = tokenize.Options(
        recipe="mars_7b", set=(readers, encoders), dry_run=True, readers=1024, cluster=str(AWS), json=True
    )
    assert tokenize.main(options)["cluster"]["nodes"] == {"cpu": 2, "p4de_on_demand": 8}
    fewer = tokenize.Options(
        recipe="mars_7b", set=(readers, encoders), dry_run=True, readers=1024, encoders=8, cluster=str(AWS)
    )
    assert tokenize.main(fewer)["cluster"]["nodes"] == {"cpu": 2, "p4de_on_demand": 1}
    capsys.readouterr()


def test_of_machines_at_hand_a_dry_run_promises_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    asked = plan_of(LOCAL)
    assert asked["nodes"] == {} and "the file does not state the resources of its machines" in asked["warnings"][0]
    assert json.dumps(asked)


@pytest.mark.parametrize("flags", [dict(cluster="cluster/aws_a100.yaml"), dict(dry_run=True, cluster="no/such.yaml")])
def test_a_cluster_file_for_nothing_or_that_is_not_there_is_refused(flags: dict[str, Any]) -> None:
    for job in (train_stage, tokenize):
        with pytest.raises(UsageError, match="dry-run|no cluster file"):
            job.main(job.Options(**flags))


def commands_of(page: str) -> list[str]:
    """The jobs that a page's blocks call, lines joined and remarks left out."""
    blocks = re.findall(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    joined = re.sub(r" +(?:# [^\n]*)?\\\n *", " ", "\n".join(blocks))
    lines = [re.sub(r"\s+# .*", "", line) for line in joined.splitlines()]
    lines = [line.partition(" -- ")[2] if " -- " in line else line for line in lines]
    return [line for line in lines if line.startswith("jobs/")]


def test_the_jobs_that_the_page_on_clusters_calls_know_the_options_it_gives() -> None:
    named = (check_cluster, init_model, preflight, tokenize, train_stage)
    jobs = {f"jobs/{job.__name__.rpartition('.')[2]}.py": job for job in named}
    found = commands_of((CHECKOUT / "docs" / "cluster.md").read_text())
    assert len(found) >= 8
    for command in found:
        options = tyro.cli(jobs[shlex.split(command)[0]].Options, args=options_of(command))
        if hasattr(options, "recipe"):
            load_recipe(options.recipe, options.set)
