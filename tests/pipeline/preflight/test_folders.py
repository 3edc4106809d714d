"""A folder is tried from all nodes; here each node is a thread, and one of them may have a folder of its own."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.preflight import folders, storage
from pipeline.preflight.finding import Finding, Verdict
from pipeline.preflight.folders import Folder, folder_findings
from pipeline.preflight.nodes import Answers, Node
from tests.support.preflight import node

HEAD, FIRST, BLIND = node("head", is_drivers=True), node("first"), node("blind")
NODES = [HEAD, FIRST, BLIND]


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that all nodes share."""
    monkeypatch.setattr(folders, "ask", partial(_ask_threads, {}))
    monkeypatch.setattr(folders, "WRITE_BYTES", 4_000_000)
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def _ask_threads(own_folders: Mapping[Node, Path], calls: Mapping[Node, Any], limit_s: float) -> Answers[Any]:
    """Runs the calls in threads. Those of nodes with a folder of their own get that in place of the shared one."""

    def run(node: Node, call: Any) -> Any:
        url, *rest = call.args
        return call.func(str(own_folders[node] / Path(url).name) if node in own_folders else url, *rest)

    with ThreadPoolExecutor(len(calls) or 1) as pool:
        pending = {node: pool.submit(run, node, call) for node, call in calls.items()}
        return Answers({node: each.result(limit_s) for node, each in pending.items()}, {})


def tried(folder: Path, needed_bytes: int = 1) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in folder_findings(Folder("run", str(folder), needed_bytes), NODES, 30):
        found.setdefault(finding.what.removeprefix("run: ").split(",")[0], []).append(finding)
    return found


def test_a_folder_that_all_share_is_well_and_nothing_is_left_in_it(shared: Path) -> None:
    found = tried(shared)
    assert found.keys() == {
        f"room in {shared}",
        "seen by all nodes",
        "one owner of several at once",
        "locks",
        "writing 4 MB",
    }
    assert {finding.verdict for findings in found.values() for finding in findings} <= {Verdict.OK, Verdict.WARNING}
    assert list(shared.iterdir()) == []


def test_a_node_with_a_folder_of_its_own_is_named_and_writes_nothing_there(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(folders, "ask", partial(_ask_threads, {BLIND: own}))
    _see_at_once(monkeypatch)
    found = tried(shared)
    (blind,) = [finding for finding in found["seen by all nodes"] if finding.verdict]
    assert blind.verdict is Verdict.FAILED and blind.node == str(BLIND) and "share" in blind.remedy
    assert found["one owner of several at once"][0].verdict is Verdict.OK, "the others are tried nevertheless"
    assert list(own.iterdir()) == [] and list(shared.iterdir()) == []


def _see_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., str | None] = storage.wait_for_text
    monkeypatch.setattr(storage, "wait_for_text", lambda url, name, within_s=0.5: real(url, name, min(within_s, 0.5)))


def test_locks_that_do_not_hold_between_nodes_are_found(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "lock_is_free", lambda url: True)
    found = tried(shared)["locks"]
    assert {finding.node for finding in found} == {str(FIRST), str(BLIND)}
    assert all(finding.verdict is Verdict.FAILED and "flock" in finding.remedy for finding in found)


def test_two_owners_at_once_are_found(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "take_ownership", lambda url, me: True)
    (found,) = tried(shared)["one owner of several at once"]
    assert found.verdict is Verdict.FAILED and "3 of 3" in found.measured


def test_less_room_than_all_checkpoints_need_fails(shared: Path) -> None:
    (found,) = tried(shared, needed_bytes=10**18)[f"room in {shared}"]
    assert found.verdict is Verdict.FAILED and "all stages' checkpoints" in found.expected


def test_a_folder_that_cannot_be_written_is_one_finding(shared: Path) -> None:
    (shared / "file").write_text("")
    (found,) = tried(shared / "file")["writing"]
    assert found.verdict is Verdict.FAILED and "NotADirectoryError" in found.measured and found.remedy
