"""Versions of everything that must be alike on all nodes."""

import hashlib
import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from pipeline.preflight.finding import Finding, Verdict, count_of
from pipeline.preflight.nodes import Node

SUBJECT = "versions"
PROJECT_NAME = "mars-on-ray"
CODE, PYTHON, DRIVER = "project's code", "Python", "NVIDIA driver"
MISSING = "none"
MAX_NAMED = 4
"""Differences that a finding names; the others are counted."""
PACKAGES = ("pipeline", "tokenization")
"""The project's packages that run on nodes."""

Versions = Mapping[str, str]


def versions_here() -> dict[str, str]:
    """Returns the versions of this process's environment: Python, NVIDIA's driver, every package, the project's code.

    Called on each node. If two packages have the same name, the first one on the path counts, as for imports.
    """
    found = {PYTHON: platform.python_version(), CODE: code_sha256()[:12]}
    if driver := driver_version():
        found[DRIVER] = driver
    for package in metadata.distributions():
        if name := package.metadata["Name"]:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), package.version)
    found.pop(PROJECT_NAME, None)  # its code is compared instead
    return found


def code_sha256() -> str:
    """Returns a hash of the Python files of `PACKAGES`, as they are on this node."""
    root, digest = Path(__file__).resolve().parents[2], hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def driver_version() -> str:
    """Returns the version of NVIDIA's driver, empty if there is none."""
    if not shutil.which("nvidia-smi"):
        return ""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    return said.stdout.split("\n")[0].strip() if said.returncode == 0 else ""


def own_requirements() -> set[str]:
    """Returns the names of the packages that the project requires without extras; empty if it is not installed."""
    try:
        required = metadata.requires(PROJECT_NAME) or []
    except metadata.PackageNotFoundError:
        return set()
    names = [re.match(r"[\w.-]+", line) for line in required if "extra ==" not in line]
    return {re.sub(r"[-_.]+", "-", name.group()).lower() for name in names if name}


def judge_versions(by_node: Mapping[Node, Versions], required: set[str]) -> list[Finding]:
    """Compares the nodes' versions with those of most nodes.

    A package that the project does not require itself (`required`; if that is empty, none) gives a warning only.
    NVIDIA's driver is compared only between the nodes that have one.
    """
    names = sorted({name for versions in by_node.values() for name in versions})
    usual = {name: _usual(name, by_node) for name in names}
    findings = []
    for node, versions in by_node.items():
        odd = [name for name in names if versions.get(name, MISSING) != usual[name]]
        odd = [name for name in odd if name != DRIVER or name in versions]
        for verdict in (Verdict.FAILED, Verdict.WARNING):
            of_verdict = [name for name in odd if _verdict(name, required) is verdict]
            if of_verdict:
                here = {name: versions.get(name, MISSING) for name in of_verdict}
                findings.append(_difference(node, verdict, here, {name: usual[name] for name in of_verdict}))
    if not findings:
        measured = f"{len(names)} versions are alike on {count_of(len(by_node), 'node')}"
        findings.append(Finding(SUBJECT, "packages, code, driver", Verdict.OK, measured))
    return findings


def _verdict(name: str, required: set[str]) -> Verdict:
    must = name in (PYTHON, CODE, DRIVER) or name in required or not required
    return Verdict.FAILED if must else Verdict.WARNING


def _usual(name: str, by_node: Mapping[Node, Versions]) -> str:
    """The version that most nodes have; in a tie, that of the driver's node."""
    values = [versions.get(name, MISSING) for versions in by_node.values()]
    if name == DRIVER:
        values = [value for value in values if value != MISSING]
    counts = Counter(values)
    most = max(counts.values())
    drivers = [versions.get(name, MISSING) for node, versions in by_node.items() if node.is_drivers]
    return next((value for value in [*drivers, *values] if counts[value] == most), MISSING)


def _difference(node: Node, verdict: Verdict, here: Versions, usual: Versions) -> Finding:
    return Finding(
        SUBJECT,
        "other than on most nodes",
        verdict,
        _some(here),
        _some(usual),
        str(node),
        "install the versions of cluster/requirements.lock there, or start the node from the others' image",
        {"here": dict(here), "usual": dict(usual)},
    )


def _some(versions: Versions) -> str:
    named = [f"{name} {version}" for name, version in list(versions.items())[:MAX_NAMED]]
    more = len(versions) - len(named)
    return ", ".join(named) + (f", {more} more" if more else "")
