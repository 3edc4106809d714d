"""Cluster files let Ray reserve CPU and memory for its own processes where a node can, and start Ray elsewhere, too."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster import resource_isolation
from cluster.cluster_file import read_cluster_file
from cluster.resource_isolation import FLAG, NotIsolatedError, check_cgroup, find_cgroup
from tests.support.checkout import CHECKOUT
from tests.support.cluster_files import AWS, CLUSTERS, GCP, LOCAL

CONTAINER = "overlay / overlay rw 0 0\ncgroup /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"
OLD = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
ASKED = "$(python -m cluster.resource_isolation)"


@pytest.mark.parametrize(
    ("membership", "folder"),
    [("0::/\n", "/sys/fs/cgroup"), ("0::/user.slice/app.scope\n", "/sys/fs/cgroup/user.slice/app.scope")],
    ids=["container", "service"],
)
def test_the_cgroup_is_that_of_the_process(membership: str, folder: str) -> None:
    assert find_cgroup(CONTAINER, membership) == Path(folder)


@pytest.mark.parametrize(
    ("mounts", "reason"), [(OLD, "v1 is mounted at /sys/fs/cgroup/cpu"), ("proc /proc proc rw 0 0\n", "v2 is not")]
)
def test_a_node_whose_cgroups_ray_refuses_is_named(mounts: str, reason: str) -> None:
    with pytest.raises(NotIsolatedError, match=reason):
        find_cgroup(mounts, "1:cpu:/\n0::/\n")


def test_mounts_without_a_source_or_a_type_are_read(tmp_path: Path) -> None:
    odd = f"\nproc\n {tmp_path} cgroup2 rw 0 0\n {tmp_path} tmpfs cgroup 0 0\n"
    assert find_cgroup(odd + CONTAINER, "0::/\n") == tmp_path


@pytest.mark.parametrize(
    ("membership", "reason"),
    [
        ("", "in no cgroup"),
        ("1:cpu:/\n", "in no cgroup"),
        ("0::/a b\n", "/a b' has characters"),
        ("0::/*\n", "a shell"),
    ],
)
def test_a_cgroup_that_cannot_be_given_to_ray_is_named(membership: str, reason: str) -> None:
    with pytest.raises(NotIsolatedError, match=reason):
        find_cgroup(CONTAINER, membership)


def cgroup(folder: Path, controllers: str = "cpu io memory\n") -> Path:
    """Makes the files of a container's cgroup that are looked at."""
    files = {"type": "domain\n", "controllers": controllers, "procs": "1\n", "subtree_control": ""}
    for name, content in files.items():
        (folder / f"cgroup.{name}").write_text(content)
    return folder


@pytest.fixture(autouse=True)
def cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has some."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})


def test_a_cgroup_that_ray_can_use_is_taken(tmp_path: Path) -> None:
    check_cgroup(cgroup(tmp_path))


@pytest.mark.parametrize("kind", ["threaded", "domain threaded", "domain invalid"])
def test_a_cgroup_of_threads_is_named(kind: str, tmp_path: Path) -> None:
    (cgroup(tmp_path) / "cgroup.type").write_text(f"{kind}\n")
    with pytest.raises(NotIsolatedError, match=f"of the type {kind}"):
        check_cgroup(tmp_path)


def test_a_cgroup_without_a_controller_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotIsolatedError, match="no controller memory"):
        check_cgroup(cgroup(tmp_path, "cpu pids\n"))


@pytest.mark.parametrize(("limit", "cpus"), [("100000 100000\n", "1"), ("50000 100000\n", "0.5")])
def test_a_cgroup_with_too_few_cpus_is_named(tmp_path: Path, limit: str, cpus: str) -> None:
    (cgroup(tmp_path) / "cpu.max").write_text(limit)
    with pytest.raises(NotIsolatedError, match=f"of {cpus} CPUs Ray cannot reserve one"):
        check_cgroup(tmp_path)


def test_cpus_are_those_of_the_machine_or_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert resource_isolation.count_cpus(tmp_path) == 8
    for limit, cpus in (("max 100000\n", 8), ("250000 100000\n", 2.5), ("1600000 100000\n", 8)):
        (tmp_path / "cpu.max").write_text(limit)
        assert resource_isolation.count_cpus(tmp_path) == cpus


def test_the_machines_root_cgroup_is_left_alone(tmp_path: Path) -> None:
    (cgroup(tmp_path) / "cgroup.type").unlink()
    with pytest.raises(NotIsolatedError, match="no cgroup of a container"):
        check_cgroup(tmp_path)


@pytest.mark.parametrize("file", ["", "cgroup.procs", "cgroup.subtree_control"])
def test_a_cgroup_that_cannot_be_written_is_named(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / file)  # root may write everywhere
    with pytest.raises(NotIsolatedError, match=f"{tmp_path / file} cannot be written"):
        check_cgroup(tmp_path)


def test_the_flags_go_to_ray_and_the_reason_to_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resource_isolation, "find_cgroup", lambda mounts, membership: tmp_path)
    resource_isolation.main()
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "docs/cluster.md" in err
    cgroup(tmp_path)
    resource_isolation.main()
    out, err = capsys.readouterr()
    assert out.split() == [FLAG, f"--cgroup-path={tmp_path}"] and not err
    resource_isolation.main(["--system-reserved-cpu=2"])
    assert capsys.readouterr().out.split() == [FLAG, f"--cgroup-path={tmp_path}", "--system-reserved-cpu=2"]


def test_files_that_cannot_be_read_are_a_reason_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resource_isolation, "find_cgroup", lambda mounts, membership: tmp_path)
    for file, content in (("cpu.max", b"max\n"), ("cgroup.type", b"\xff\n"), ("cgroup.controllers", b"")):
        path = cgroup(tmp_path) / file
        path.unlink(missing_ok=True)
        if content:
            path.write_bytes(content)
        resource_isolation.main(["--system-reserved-cpu=2"])
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1 and "docs/cluster.md" in err


def test_it_imports_nothing_that_is_slow() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "cluster.resource_isolation"]
    found = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    imported = {line.split()[-1].split(".")[0] for line in found.stderr.splitlines()}
    assert "pathlib" in imported and not {"ray", "torch", "yaml", "botocore"} & imported


@pytest.mark.parametrize("path", [AWS, GCP, LOCAL], ids=lambda path: path.stem)
def test_ray_up_files_make_the_cgroup_writable_and_ask_on_each_node(path: Path) -> None:
    config = read_cluster_file(str(path)).config
    assert "--security-opt writable-cgroups=true" in config["docker"]["run_options"]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert commands[-1].startswith("cd /mars && ray start ") and commands[-1].endswith(ASKED)


@pytest.mark.parametrize("file", ["raycluster", "raycronjob_evaluate"])
def test_kuberays_pods_start_ray_with_its_flags_and_ours(file: str, tmp_path: Path) -> None:
    spec = yaml.safe_load((CLUSTERS / "kuberay" / f"{file}.yaml").read_text())["spec"]
    cluster = spec["jobTemplate"]["rayClusterSpec"] if "jobTemplate" in spec else spec
    asked = f'[ "$*" = "-m cluster.resource_isolation" ] && echo {FLAG}'
    for name, text in {"python": asked, "ray": 'printf "%s\\n" "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    # As KubeRay writes it from rayStartParams and the pod's resources.
    given = r'ray start --num-cpus=60 --resources="{\"decode\": 60}" --block'
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        template = group["template"]
        assert template["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}
        [container] = template["spec"]["containers"]
        environment = {"PATH": f"{tmp_path}:{os.defpath}", "KUBERAY_GEN_RAY_START_CMD": given}
        shown = subprocess.run(
            [*container["command"], *container["args"]], env=environment, capture_output=True, text=True, check=True
        )
        assert shown.stdout.splitlines() == [*shlex.split(given)[1:], FLAG]
