"""The run's folders and buckets as all nodes see them: visible, locked, writable, with room, fast enough."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from pipeline.errors import InputError
from pipeline.preflight import storage
from pipeline.preflight.finding import Finding, Verdict, failed, with_unit
from pipeline.preflight.nodes import Answers, Node, ask, one_line
from tokenization.files.storage import open_storage

T = TypeVar("T")
SUBJECT = "storage"
WRITE_BYTES = 64_000_000
"""Bytes that each node writes."""
SLOW_SHARE = 1 / 3
"""A node that writes at less than this share of the fastest node's rate is slow (this project's own choice)."""
NOT_SHARED = "name a folder on a file system that all nodes share, or a bucket, with --root or the recipe's folder"


@dataclass(frozen=True)
class Folder:
    """A folder or bucket that the run writes to.

    Attributes:
        purpose: what it is for, as in `checkpoints`.
        url: the folder or URL.
        needed_bytes: bytes that the run will still write there at most; 0 if they are few.
    """

    purpose: str
    url: str
    needed_bytes: int = 0


def folder_findings(folder: Folder, nodes: Sequence[Node], limit_s: float) -> list[Finding]:
    """Tries one folder from all nodes. What it writes lies in a hidden folder, which it removes."""
    findings = [*_room(folder)]
    try:
        with _scratch(folder.url) as url:
            seen, seeing = _seen_by_all(folder, url, nodes, limit_s)
            findings += seen
            findings += _one_owner(folder, url, seeing, limit_s)
            findings += _locks(folder, url, seeing, limit_s)
            findings += _conditions(folder, url)
            findings += judge_writes(folder, _writes(url, seeing, limit_s)) if folder.needed_bytes else []
    except (OSError, InputError) as error:
        findings.append(failed(SUBJECT, f"{folder.purpose}: writing", one_line(error), _remedy_of(error)))
    return findings


@contextmanager
def _scratch(url: str) -> Iterator[str]:
    name, parent = f".preflight-{uuid.uuid4().hex[:8]}", open_storage(url)
    scratch = f"{url.rstrip('/')}/{name}"
    try:
        if "://" not in url:
            Path(scratch).mkdir(parents=True)
        yield scratch
    finally:
        with suppress(OSError, InputError):  # a folder that cannot be removed is the smaller problem
            parent.delete_folder(name)


def _room(folder: Folder) -> list[Finding]:
    free = storage.free_bytes(folder.url)
    if free is None:
        return []
    verdict = Verdict.OK if free >= max(folder.needed_bytes, WRITE_BYTES) else Verdict.FAILED
    remedy = "make room, lower keep_checkpoints, or set checkpoint_folder to a larger one" if verdict else ""
    expected = f"{with_unit(folder.needed_bytes, 'B')} for all stages' checkpoints" if folder.needed_bytes else ""
    figures = {"free_bytes": free, "needed_bytes": folder.needed_bytes}
    what = f"{folder.purpose}: room in {folder.url}"
    return [Finding(SUBJECT, what, verdict, f"{with_unit(free, 'B')} free", expected, "", remedy, figures)]


def _seen_by_all(folder: Folder, url: str, nodes: Sequence[Node], limit_s: float) -> tuple[list[Finding], list[Node]]:
    """Also returns the nodes that see it. The others would write to folders of their own, which nobody would remove."""
    token, what = uuid.uuid4().hex, f"{folder.purpose}: seen by all nodes"
    storage.write_text(url, storage.TOKEN, token)
    answers = ask({node: partial(storage.see_and_answer, url, token, node.node_id) for node in nodes}, limit_s)
    findings = _errors(what, answers)
    blind = [node for node, seconds in answers.values.items() if seconds is None]
    seeing = [node for node in answers.values if node not in blind]
    unseen = [node for node in seeing if storage.wait_for_text(url, storage.seen_name(node.node_id)) != token]
    for node in blind:
        findings.append(failed(SUBJECT, what, "does not see what the driver wrote", NOT_SHARED, str(node)))
    for node in unseen:
        findings.append(failed(SUBJECT, what, "the driver does not see what it wrote", NOT_SHARED, str(node)))
    if findings:
        return findings, [node for node in seeing if node not in unseen]
    slowest = max((seconds or 0.0 for seconds in answers.values.values()), default=0.0)
    said = f"{len(seeing)} of {len(nodes)} nodes, after {slowest:.2f} s at most"
    return [Finding(SUBJECT, what, Verdict.OK, said, figures={"visible_after_s": slowest})], seeing


def _one_owner(folder: Folder, url: str, nodes: Sequence[Node], limit_s: float) -> list[Finding]:
    """Lets all nodes claim the folder at once, as attempts do. One of them must become the owner."""
    if not nodes:
        return []
    what = f"{folder.purpose}: one owner of several at once"
    answers = ask({node: partial(storage.take_ownership, url, node.node_id) for node in nodes}, limit_s)
    if errors := _errors(what, answers):
        return errors
    owners = [node for node, is_owner in answers.values.items() if is_owner]
    right = len(owners) == 1 and storage.wait_for_text(url, storage.OWNER) == owners[0].node_id
    said = f"{len(owners)} of {len(nodes)} nodes became the owner"
    if right:
        return [Finding(SUBJECT, what, Verdict.OK, said, "1")]
    return [failed(SUBJECT, what, said, "two attempts could write the same checkpoints: see the locks' finding")]


def _locks(folder: Folder, url: str, nodes: Sequence[Node], limit_s: float) -> list[Finding]:
    """While one node holds a lock, no other must get it."""
    if "://" in url or len(nodes) < 2:
        return []
    what, remedy = f"{folder.purpose}: locks", "mount it with locks: Lustre with `flock`, NFS from version 4 on"
    first, others = nodes[0], nodes[1:]
    holding = _HoldingNode(first, url, limit_s)
    try:
        if not holding.holds():
            return [failed(SUBJECT, what, holding.problem() or "no lock was given", remedy, str(first))]
        answers = ask({node: partial(storage.lock_is_free, url) for node in others}, limit_s)
    finally:
        storage.write_text(url, storage.RELEASE, "")
    findings = _errors(what, answers)
    for node in [node for node, free in answers.values.items() if free]:
        findings.append(failed(SUBJECT, what, f"got a lock that {first} held", remedy, str(node)))
    return findings or [Finding(SUBJECT, what, Verdict.OK, f"one of {len(nodes)} nodes at a time")]


class _HoldingNode:
    """Lets a node hold the lock in the background."""

    def __init__(self, node: Node, url: str, limit_s: float) -> None:
        self._url, self._pool = url, ThreadPoolExecutor(1)
        self._asked = self._pool.submit(ask, {node: partial(storage.hold_lock, url)}, limit_s)

    def holds(self) -> bool:
        """Waits until the node says that it has the lock."""
        ends_at = time.monotonic() + storage.VISIBLE_WITHIN_S
        while time.monotonic() < ends_at and not self._asked.done():
            if storage.wait_for_text(self._url, storage.HELD, 0.0) is not None:
                return True
            time.sleep(storage.POLL_S)
        return False

    def problem(self) -> str:
        return next(iter(self._asked.result().errors.values()), "") if self._asked.done() else ""


def _conditions(folder: Folder, url: str) -> list[Finding]:
    refuses = storage.refuses_conditional_writes(url)
    if refuses is None:
        return []
    what = f"{folder.purpose}: conditional writes"
    if refuses:
        return [Finding(SUBJECT, what, Verdict.OK, "refused where the condition does not hold")]
    remedy = "this service cannot keep two attempts apart: use one of AWS, Google or Azure, or a file system with locks"
    return [failed(SUBJECT, what, "written although the condition did not hold", remedy)]


def _writes(url: str, nodes: Sequence[Node], limit_s: float) -> Answers[storage.Write]:
    """Lets all nodes write at once, and those that were slow once more."""

    def written(by: Sequence[Node]) -> Answers[storage.Write]:
        return ask({node: partial(storage.measure_write, url, node.node_id, WRITE_BYTES) for node in by}, limit_s)

    answers = written(nodes)
    again = written(slow_writers(answers.values))
    faster = {
        node: write for node, write in again.values.items() if write.bytes_per_s > answers.values[node].bytes_per_s
    }
    return Answers(answers.values | faster, answers.errors)


def slow_writers(writes: Mapping[Node, storage.Write]) -> list[Node]:
    """Returns the nodes that wrote, but far slower than the fastest."""
    fastest = max((write.bytes_per_s for write in writes.values()), default=0.0)
    return [node for node, write in writes.items() if not write.problem and write.bytes_per_s < SLOW_SHARE * fastest]


def judge_writes(folder: Folder, answers: Answers[storage.Write]) -> list[Finding]:
    """Judges the nodes' writes, each against the fastest."""
    what = f"{folder.purpose}: writing {with_unit(WRITE_BYTES, 'B')}, all nodes at once"
    findings = _errors(what, answers)
    fastest = max((write.bytes_per_s for write in answers.values.values()), default=0.0)
    slow = slow_writers(answers.values)
    for node, write in answers.values.items():
        rate = with_unit(write.bytes_per_s, "B/s")
        figures = {"bytes_per_s": write.bytes_per_s}
        if write.problem:
            findings.append(failed(SUBJECT, what, write.problem, "make room, or repair the mount", str(node)))
        elif node in slow:
            remedy = "look at this node's network and mount options; it holds up every checkpoint"
            expected = f"at least a third of the fastest's {with_unit(fastest, 'B/s')}"
            findings.append(Finding(SUBJECT, what, Verdict.WARNING, rate, expected, str(node), remedy, figures))
        else:
            findings.append(Finding(SUBJECT, what, Verdict.OK, rate, node=str(node), figures=figures))
    return findings


def _errors(what: str, answers: Answers[T]) -> list[Finding]:
    remedy = "look at the mount and at `ray status`; the folder must be writable for every node"
    return [failed(SUBJECT, what, error, remedy, str(node)) for node, error in answers.errors.items()]


def _remedy_of(error: Exception) -> str:
    full = isinstance(error, OSError) and error.errno == 28
    return "make room there, or choose another --root" if full else "correct the folder, its mount, or its permissions"
