"""Each name of Ray that is not public is where it was, and takes what it is given."""

from pathlib import Path

import pytest

from pipeline.runtime import ray_autoscaler_private, ray_private, ray_start_private
from tests.support.private_names import names_in, private_name

CLUSTER_FILES = "cluster files are read and checked as `ray up` and KubeRay do"
PLANNED_NODES = "a dry run asks the autoscaler's own scheduler which nodes it would start"
LEDGER = "the ledger reads what a job holds from Ray's tables"
PARSED = "the ledger parses the rows of Ray's tables"
WAITING = "jobs say what they wait for, and refuse what the cluster can never give"
NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "ray._private.utils.read_ray_address": ("jobs look whether a cluster on this machine still answers", ()),
    "ray.serve.Deployment.options": ("a server takes over a checkpoint without a pause", ("version", "_internal")),
    "ray._private.services.ConsolePopen": ("a job's own Ray outlives a signal to the job's process group", ()),
    "ray._private.services.start_api_server": ("a job's own Ray starts without a dashboard process", ()),
    "ray._private.node.Node.start_log_monitor": ("a job's own Ray starts without a log monitor", ("self",)),
    "ray._private.state.state.get_draining_nodes": ("no worker is placed on a node about to be taken away", ()),
    "ray._private.state.available_resources_per_node": ("the workers that fit are counted node by node", ()),
    "ray._private.state.state._connect_and_get_accessor": (LEDGER, ()),
    "ray._raylet.GlobalStateAccessor.get_job_table": ("the ledger learns that a job has ended", ()),
    "ray._raylet.GlobalStateAccessor.get_placement_group_table": (WAITING, ()),
    "ray._raylet.GlobalStateAccessor.get_actor_table": (LEDGER, ()),
    "ray.core.generated.gcs_pb2.JobTableData": (PARSED, ()),
    "ray.core.generated.gcs_pb2.ActorTableData": (PARSED, ()),
    "ray.train.v2._internal.execution.context.get_train_context": ("workers hear that a node will be taken away", ()),
    "ray.train.v2._internal.execution.worker_group.poll.WorkerStatus": (
        "what Ray Train's looks at many workers cost is measured",
        ("running", "error", "training_report"),
    ),
    "ray.train.v2.api.data_parallel_trainer.DataParallelTrainer._register_sigint_handler": (
        "Ctrl-C lets a job write a checkpoint",
        ("controller",),
    ),
    "ray.dashboard.modules.dashboard_sdk.SubmissionClient._do_request": (
        "requests about submitted jobs get a time limit",
        ("method", "endpoint", "timeout"),
    ),
    "ray.autoscaler._private.util.prepare_config": (CLUSTER_FILES, ()),
    "ray.autoscaler._private.util.validate_config": (CLUSTER_FILES, ()),
    "ray.autoscaler._private.kuberay.autoscaling_config": (CLUSTER_FILES, ()),
    "ray.autoscaler._private.kuberay.autoscaling_config._derive_autoscaling_config_from_ray_cr": (CLUSTER_FILES, ()),
    "ray.autoscaler.v2.instance_manager.config.NodeTypeConfig": (PLANNED_NODES, ("priority", "resources", "labels")),
    "ray.autoscaler.v2.scheduler.ResourceDemandScheduler": (PLANNED_NODES, ()),
    "ray.autoscaler.v2.scheduler.SchedulingRequest": (
        PLANNED_NODES,
        (
            "disable_launch_config_check",
            "node_type_configs",
            "max_num_nodes",
            "resource_requests",
            "gang_resource_requests",
        ),
    ),
    "ray.autoscaler.v2.utils.ResourceRequestUtil.make": (PLANNED_NODES, ("label_selectors",)),
    "ray.autoscaler.v2.utils.ResourceRequestUtil.group_by_count": (PLANNED_NODES, ()),
    "ray._private.ray_constants.DEBUG_AUTOSCALING_STATUS": (WAITING, ()),
    "ray.experimental.internal_kv._internal_kv_get": (WAITING, ("key",)),
    "ray.experimental.internal_kv.internal_kv_get_gcs_client": (WAITING, ()),
    "ray._raylet.InnerGcsClient.get_cluster_status": (WAITING, ()),
    "ray.core.generated.autoscaler_pb2.GetClusterStatusReply": (WAITING, ()),
    "ray.core.generated.gcs_pb2.PlacementGroupTableData.PENDING": (WAITING, ()),
    "ray.core.generated.gcs_pb2.PlacementGroupTableData.RESCHEDULING": (WAITING, ()),
    "ray.core.generated.autoscaler_pb2.GangResourceRequest": (PLANNED_NODES, ()),
    "ray.core.generated.common_pb2.LabelSelectorOperator": (PLANNED_NODES, ()),
}
PUBLIC = {"ray.job_submission.JobSubmissionClient", "ray.serve.Deployment"}


@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_of_ray_is_where_it_was(name: str) -> None:
    private_name(name, *NAMES[name])


def test_every_private_name_of_ray_has_a_test() -> None:
    rooms = (ray_private, ray_start_private, ray_autoscaler_private)
    used = set().union(*(names_in(Path(str(room.__file__)), "ray") for room in rooms)) - PUBLIC
    last_words = {word for name in NAMES for word in (name, name.split(".")[-1])}
    missing = {name for name in used if name not in last_words and not any(known.startswith(name) for known in NAMES)}
    assert not missing, f"add a test for {missing}"


@pytest.mark.parametrize(
    "table, fields",
    [
        ("JobTableData", {"job_id", "is_dead", "end_time"}),
        ("ActorTableData", {"address", "placement_group_id", "required_resources", "label_selector", "class_name"}),
        ("PlacementGroupTableData", {"creator_job_id", "state", "bundles"}),
        ("Bundle", {"node_id", "unit_resources", "label_selector"}),
        ("Address", {"node_id", "worker_id"}),
    ],
)
def test_the_ledger_finds_the_fields_of_rays_tables(table: str, fields: set[str]) -> None:
    from ray.core.generated import common_pb2, gcs_pb2

    message = getattr(gcs_pb2, table, None) or getattr(common_pb2, table)
    missing = fields - set(message.DESCRIPTOR.fields_by_name)
    assert not missing, f"Ray's {table} has no {missing}: the ledger cannot tell what a job holds"


def test_a_head_notes_where_it_keeps_its_state_under_the_key_that_is_looked_for() -> None:
    """Otherwise a job waits for another head at the address of one whose state is lost, and Ray's client crashes."""
    from ray._common.usage import usage_constants, usage_lib

    name = usage_lib.TagKey.Name(usage_lib.TagKey.GCS_STORAGE).lower()
    key = f"{usage_constants.EXTRA_USAGE_TAG_PREFIX}{name}"
    assert (usage_constants.USAGE_STATS_NAMESPACE.encode(), key.encode()) == ray_private.STORAGE_NOTE


def test_ray_train_announces_preemptions_where_they_are_looked_for() -> None:
    from ray.train.v2._internal.execution import context
    from ray.train.v2._internal.execution.preemption import PreemptionContext
    from ray.train.v2.api.preemption import PreemptionInfo

    assert "preemption_context" in context.TrainContext.__annotations__, "workers would not hear of preemptions"
    assert "preemption_info" in PreemptionContext.__annotations__, "nor of which nodes they concern"
    assert hasattr(PreemptionInfo, "preempted_node_ids"), "nor of their ids"
