"""A node whose environment differs from the others' is named before it spoils a run."""

from importlib import metadata

from pipeline.preflight.finding import Verdict
from pipeline.preflight.versions import CODE, DRIVER, PYTHON, judge_versions, own_requirements, versions_here
from tests.support.preflight import node

ALIKE = {PYTHON: "3.11.7", CODE: "aaaa", DRIVER: "580.1", "torch": "2.13.0", "pytest": "9.0"}
HEAD, FIRST, SECOND = node("head", is_drivers=True), node("first"), node("second")


def test_this_environments_packages_and_code_are_told() -> None:
    found = versions_here()
    assert found["torch"] == metadata.version("torch") and found["huggingface-hub"]
    assert len(found[CODE]) == 12 and found[PYTHON].startswith("3.")


def test_nodes_that_are_alike_are_one_finding() -> None:
    (found,) = judge_versions({HEAD: ALIKE, FIRST: ALIKE}, {"torch"})
    assert found.verdict is Verdict.OK and "alike on 2 nodes" in found.measured


def test_the_node_with_another_version_is_named_and_not_the_others() -> None:
    (found,) = judge_versions({HEAD: ALIKE, FIRST: ALIKE, SECOND: ALIKE | {"torch": "2.12.0"}}, {"torch"})
    assert found.verdict is Verdict.FAILED and found.node.startswith("second")
    assert found.measured == "torch 2.12.0" and found.expected == "torch 2.13.0" and found.remedy


def test_of_two_nodes_the_drivers_is_taken_as_right() -> None:
    (found,) = judge_versions({HEAD: ALIKE, FIRST: ALIKE | {PYTHON: "3.12.1"}}, {"torch"})
    assert found.node.startswith("first") and found.verdict is Verdict.FAILED


def test_a_tool_that_training_does_not_use_gives_a_warning_only() -> None:
    (found,) = judge_versions({HEAD: ALIKE, FIRST: ALIKE | {"pytest": "8.0"}}, {"torch"})
    assert found.verdict is Verdict.WARNING
    (found,) = judge_versions({HEAD: ALIKE, FIRST: ALIKE | {"pytest": "8.0"}}, set())
    assert found.verdict is Verdict.FAILED, "what the project requires is not known: all of it may matter"


def test_a_head_without_gpus_need_not_have_their_driver() -> None:
    without = {name: version for name, version in ALIKE.items() if name != DRIVER}
    (found,) = judge_versions({HEAD: without, FIRST: ALIKE, SECOND: ALIKE}, {"torch"})
    assert found.verdict is Verdict.OK
    (found,) = judge_versions({HEAD: without, FIRST: ALIKE, SECOND: ALIKE | {DRIVER: "570.0"}}, {"torch"})
    assert found.node.startswith(("first", "second")) and found.verdict is Verdict.FAILED


def test_what_the_project_requires_is_known_here() -> None:
    assert {"torch", "deepspeed", "ray"} <= own_requirements() and "pytest" not in own_requirements()
