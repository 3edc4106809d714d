"""Checks that every node sees the same language expert, VQ-GAN and tokens.

Files of gigabytes are compared by their sizes, first and last bytes; whole weights are compared by the ranks as they
load them (`check_same_language_expert`), and a starting model's files are verified by one rank of each node.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.preflight.finding import Finding, Verdict, count_of, failed, with_unit
from pipeline.preflight.nodes import Node
from tokenization.errors import InputError
from tokenization.table.token_table import list_token_shards, read_content, read_fingerprint

SUBJECT = "inputs"
END_BYTES = 2**20
"""Bytes of a file's beginning and of its end that are compared."""
COMPARED_SHARDS = 8
"""Token shards, evenly spread, whose footers are compared; of the others, the names."""


@dataclass(frozen=True)
class Inputs:
    """The locations of a run's inputs.

    Attributes:
        language_expert: folder of the language expert or of the initial model.
        vqgan: folder or file of the VQ-GAN.
        tokens: folder or URL of the tokens, by corpus.
    """

    language_expert: Path
    vqgan: Path
    tokens: Mapping[str, str]


@dataclass(frozen=True)
class Seen:
    """A node's view of one input: a hash and a description, or a problem."""

    sha256: str = ""
    described: str = ""
    problem: str = ""


def inputs_here(inputs: Inputs) -> dict[str, Seen]:
    """Returns what this node sees of each input. Called on each node."""
    seen = {
        "language expert": _seen_files(inputs.language_expert),
        "VQ-GAN": _seen_files(inputs.vqgan),
    }
    return seen | {f"tokens of {corpus}": _seen_tokens(url) for corpus, url in inputs.tokens.items()}


def _seen_files(path: Path) -> Seen:
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    digest, total = hashlib.sha256(), 0
    try:
        for file in files:
            size = file.stat().st_size
            digest.update(f"{file.relative_to(path) if path.is_dir() else file.name} {size}".encode())
            with file.open("rb") as content:
                digest.update(content.read(END_BYTES))
                content.seek(max(0, size - END_BYTES))
                digest.update(content.read(END_BYTES))
            total += size
    except OSError as error:
        return Seen(problem=f"{error.strerror}: {error.filename}")
    if not files:
        return Seen(problem=f"{path} has no files" if path.exists() else f"{path} does not exist")
    return Seen(digest.hexdigest(), f"{count_of(len(files), 'file')}, {with_unit(total, 'B')}")


def _seen_tokens(url: str) -> Seen:
    try:
        shards = list_token_shards(url)
        digest = hashlib.sha256("\n".join(shard.name for shard in shards).encode())
        for number in range(min(COMPARED_SHARDS, len(shards))):
            shard = shards[number * len(shards) // min(COMPARED_SHARDS, len(shards))]
            digest.update(f"{read_fingerprint(shard)} {read_content(shard)} {shard.num_rows}".encode())
    except (InputError, OSError) as error:
        return Seen(problem=str(error))
    return Seen(digest.hexdigest(), count_of(len(shards), "shard"))


def judge_inputs(by_node: Mapping[Node, Mapping[str, Seen]]) -> list[Finding]:
    """Compares the inputs that the nodes see with those of the driver's node, or else of the first node. If that node
    does not see an input, only that node is named."""
    findings: list[Finding] = []
    if not by_node:
        return findings
    reference = next((node for node in by_node if node.is_drivers), next(iter(by_node)))
    for what, expected in by_node[reference].items():
        if expected.problem:
            remedy = (
                "make it (jobs/tokenize.py, jobs/train_lm.py, jobs/init_model.py), or correct its folder in the recipe"
            )
            findings.append(failed(SUBJECT, what, expected.problem, remedy, str(reference)))
            continue
        odd = [_odd(what, node, seen[what], expected) for node, seen in by_node.items()]
        problems = [finding for finding in odd if finding]
        said = f"{expected.described}, alike on {count_of(len(by_node), 'node')}"
        findings += problems or [Finding(SUBJECT, what, Verdict.OK, said)]
    return findings


def _odd(what: str, node: Node, seen: Seen, expected: Seen) -> Finding | None:
    if seen.problem:
        remedy = "put it on the file system that all nodes share, or copy it to this node"
        return failed(SUBJECT, what, seen.problem, remedy, str(node))
    if seen.sha256 == expected.sha256:
        return None
    measured = f"other files than the driver's node has: {seen.described}"
    remedy = "remove this node's own copy, or copy the driver's"
    return Finding(SUBJECT, what, Verdict.FAILED, measured, expected.described, str(node), remedy)


def judge_stages(problems: Mapping[int, str], checked: Sequence[int]) -> list[Finding]:
    """Judges the check of all stages' inputs by the code that trains: settings, rows, fingerprints.

    Args:
        problems: the error of each stage whose inputs do not fit, by number.
        checked: numbers of all checked stages.
    """
    remedy = "see the message; jobs/tokenize.py and jobs/init_model.py make what is missing"
    return [
        failed(SUBJECT, f"stage {number}: inputs", problems[number], remedy)
        if number in problems
        else Finding(SUBJECT, f"stage {number}: inputs", Verdict.OK, "fit the recipe, fingerprints are alike")
        for number in checked
    ]
