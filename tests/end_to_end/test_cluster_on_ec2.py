"""Ray's own launcher for AWS takes the file, and EC2 (moto's, over HTTP) gives it the nodes."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.tags import TAG_RAY_LAUNCH_CONFIG, TAG_RAY_NODE_KIND, TAG_RAY_NODE_NAME, TAG_RAY_USER_NODE_TYPE

from cluster.cluster_file import read_cluster_file
from tests.support.cluster_files import AWS, VALUES, filled
from tests.support.s3 import FaultyS3

REGION = VALUES["FILL_IN_REGION"]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[tuple[str, str]], Any]]:
    """An account with a private subnet, a security group, an image and two profiles."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = FaultyS3()  # moto's server has all of AWS
    patch = pytest.MonkeyPatch()
    for name, value in (server.environment() | {"HOME": str(tmp_path_factory.mktemp("home"))}).items():
        patch.setenv(name, value)
    ec2 = boto3.resource("ec2", region_name=REGION)
    network = ec2.create_vpc(CidrBlock="10.0.0.0/16")
    zone = VALUES["FILL_IN_ZONE"]
    subnet = ec2.create_subnet(VpcId=network.id, CidrBlock="10.0.1.0/24", AvailabilityZone=zone)
    group = ec2.create_security_group(GroupName="mars", Description="mars", VpcId=network.id)
    for name in ("head-profile", "worker-profile"):
        boto3.client("iam", region_name=REGION).create_instance_profile(InstanceProfileName=name)
    image = ec2.meta.client.describe_images()["Images"][0]["ImageId"]
    yield (
        [(": &ami ami", f": &ami {image}"), ("private-subnet", subnet.id), ("security-group", group.id)],
        ec2.meta.client,
    )
    server.stop()
    patch.undo()


def test_rays_launcher_gets_every_type_of_node_from_ec2(
    account: tuple[list[tuple[str, str]], Any], tmp_path: Path
) -> None:
    values, client = account
    text = filled(AWS, tmp_path).read_text()
    for old, new in values:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "filled.yaml"
    path.write_text(text)
    file = read_cluster_file(str(path))
    config = AWSNodeProvider.bootstrap_config(file.config)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, entry in config["available_node_types"].items():
        tags = {
            TAG_RAY_NODE_KIND: "worker",
            TAG_RAY_USER_NODE_TYPE: name,
            TAG_RAY_NODE_NAME: name,
            TAG_RAY_LAUNCH_CONFIG: "x",
        }
        assert provider.create_node(entry["node_config"], tags, 1)
    started = {}
    for reservation in client.describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            name = next(tag["Value"] for tag in instance["Tags"] if tag["Key"] == TAG_RAY_USER_NODE_TYPE)
            assert instance.get("PublicIpAddress") is None and instance["KeyName"], name
            started[name] = (instance["InstanceType"], instance.get("InstanceLifecycle"))
    assert started == {
        "head": ("m6i.4xlarge", None),
        "cpu": ("c6i.32xlarge", None),
        "p4de_on_demand": ("p4de.24xlarge", None),
        "p4de_spot": ("p4de.24xlarge", "spot"),
        "p4d_on_demand": ("p4d.24xlarge", None),
        "p4d_spot": ("p4d.24xlarge", "spot"),
    }


def test_nodes_have_what_ec2_says_their_type_has(account: tuple[list[tuple[str, str]], Any]) -> None:
    """Otherwise the autoscaler plans with CPUs and GPUs that no node will have."""
    _, client = account
    for kind in read_cluster_file(str(AWS)).node_types:
        (found,) = client.describe_instance_types(InstanceTypes=[kind.instance])["InstanceTypes"]
        assert found["VCpuInfo"]["DefaultVCpus"] == kind.resources["CPU"], kind.name
        gpus = found.get("GpuInfo", {}).get("Gpus", [])
        assert sum(each["Count"] for each in gpus) == kind.resources.get("GPU", 0), kind.name
        assert "A100" not in str(kind.resources) or gpus[0]["Name"] == "A100"
