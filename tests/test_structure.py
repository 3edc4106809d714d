"""Imports point one way, and every job can be run as users type it."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT

JOBS = sorted(path for path in (CHECKOUT / "jobs").glob("*.py") if path.name != "__init__.py")
LEVELS = (
    "tokenization.config tokenization.errors tokenization.patience tokenization.waiting",
    "pipeline.errors pipeline.step_figures tokenization.dtypes",
    "pipeline.config pipeline.runtime tokenization.files",
    "cluster jobs.recipes pipeline.architecture pipeline.checkpoints pipeline.ledger"
    " tokenization.corpora tokenization.text_tokenizer",
    "pipeline.weights",
    "pipeline.model tokenization.demo tokenization.table tokenization.vqgan",
    "pipeline.data pipeline.export pipeline.runs tokenization.job tokenization.image_tokenizer",
    "pipeline.generation pipeline.pages pipeline.planning",
    "pipeline.budget pipeline.demo pipeline.own_corpus pipeline.sampling pipeline.training",
    "pipeline.launch pipeline.serving",
    "pipeline.benchmarks pipeline.preflight",
    "jobs.common pipeline.evaluation",
    "pipeline.demo_scores pipeline.requests",
    "pipeline.held_out_scores",
    "pipeline.reports",
    "jobs",
)
"""Packages, and the few modules that stand beside them; each imports from the lines above its own alone."""
LEVEL_OF = {package: level for level, line in enumerate(LEVELS) for package in line.split()}
ON_RAY = {"pipeline.benchmarks", "pipeline.demo", "pipeline.launch", "pipeline.ledger", "pipeline.requests"}
ON_RAY |= {
    "pipeline.evaluation",
    "pipeline.held_out_scores",
    "pipeline.preflight",
    "pipeline.reports",
    "pipeline.runs",
    "pipeline.runtime",
    "pipeline.serving",
}
LIBRARIES = ("deepspeed", "ray", "ray_start", "ray_autoscaler", "torch", "transformers")
PRIVATE_ROOMS = {f"pipeline.runtime.{name}_private" for name in LIBRARIES} | {"pipeline.runtime.deepspeed_host_time"}
"""The only modules that name what is private in a foreign library."""
OWN = ("cluster", "jobs", "pipeline", "tokenization")
INTERNAL_RAY = ("ray.autoscaler.", "ray.core.")
ZERO_NAMES = {"ds_tensor", "ds_numel", "ds_shape", "ds_persist", "ds_id", "grad_position", "convert_to_zero_parameters"}
ZERO_NAMES |= {"fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "update_lp_params"}
"""Attributes of DeepSpeed's ZeRO that are private without an underscore."""


def package_of(module: str) -> str:
    """The longest of its names that stands in `LEVELS`; a module of no package is its own."""
    names = module.split(".")
    known = [".".join(names[:count]) for count in range(len(names), 0, -1) if ".".join(names[:count]) in LEVEL_OF]
    return known[0] if known else module


def modules() -> dict[str, Path]:
    paths = [path for top in ("cluster", "jobs", "pipeline", "tokenization") for path in (CHECKOUT / top).rglob("*.py")]
    names = {path: ".".join(path.relative_to(CHECKOUT).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_packages_import_from_lower_levels_alone() -> None:
    known = modules()
    for module, path in known.items():
        own = package_of(module)
        for imported in imports_of(path):
            other = package_of(imported)
            if imported.split(".")[0] in ("cluster", "jobs", "pipeline", "tokenization") and other != own:
                if module in ("pipeline", "tokenization") or imported == "jobs":
                    continue
                assert other in LEVEL_OF, f"{module} imports {imported}, which is no module of a package in LEVELS"
                assert LEVEL_OF[other] < LEVEL_OF[own], f"{module} imports {imported} of the same or a higher level"


def test_tokenization_never_imports_pipeline_and_no_job_imports_a_job() -> None:
    for module, path in modules().items():
        tops = {name.split(".")[0] for name in imports_of(path)}
        assert not module.startswith("tokenization") or not tops & {"jobs", "pipeline", "cluster"}, module
        assert module.startswith("jobs") or "jobs" not in tops, module


def test_the_demos_corpora_are_known_to_the_demo_alone() -> None:
    for module, path in modules().items():
        if module.startswith("pipeline") and not module.startswith("pipeline.demo"):
            assert not any(name.startswith("tokenization.demo") for name in imports_of(path)), module


def test_every_package_says_what_lives_in_it() -> None:
    for module, path in modules().items():
        if path.name == "__init__.py":
            described = ast.get_docstring(ast.parse(path.read_text()))
            assert described and described.endswith("."), module


def test_the_architecture_page_lists_exactly_the_packages() -> None:
    page = (CHECKOUT / "docs/architecture.md").read_text()
    listed = re.findall(r"^\| `((?:cluster|jobs|pipeline|tokenization)[\w.]*)` \|", page, re.MULTILINE)
    assert sorted(listed) == sorted(LEVEL_OF), "change the table of packages in docs/architecture.md, too"


def test_the_train_loop_and_the_model_run_without_ray() -> None:
    for module, path in modules().items():
        if module.startswith("pipeline") and package_of(module) not in ON_RAY and module != "pipeline.generation.actor":
            assert not any(name.split(".")[0] == "ray" for name in imports_of(path)), path


def test_deepspeeds_key_names_live_in_one_file() -> None:
    for path in (CHECKOUT / "pipeline").rglob("*.py"):
        if path.name != "engine.py":
            assert "zero_optimization" not in path.read_text(), path


def test_only_one_module_a_library_names_what_is_private_in_it() -> None:
    for module, path in modules().items():
        if module not in PRIVATE_ROOMS:
            found = [name for node in ast.walk(ast.parse(path.read_text())) for name in private_names(node)]
            assert not found, f"{module} names {found[0]}, which is private; that belongs into {PRIVATE_ROOMS}"


def private_names(node: ast.AST) -> list[str]:
    """The private names of other libraries in a piece of code; a class's own private names do not count."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        module = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        imported = [".".join([*module, alias.name]) for alias in node.names]
        imported = [name for name in imported if name.split(".")[0] not in OWN]
        private = [name for name in imported if any(w.startswith("_") and w[:2] != "__" for w in name.split("."))]
        return private + [name for name in imported if name.startswith(INTERNAL_RAY) and name.split(".")[2] != "sdk"]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value] if node.value in ZERO_NAMES else []
    if not isinstance(node, ast.Attribute):
        return []
    if node.attr in ZERO_NAMES:
        return [node.attr]
    own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
    is_private = node.attr.startswith("_") and not node.attr.startswith("__") and ast.unparse(node) != "os._exit"
    return [ast.unparse(node)] if is_private and not own else []


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_file_can_be_executed_by_ray_job_submit(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env -S python -P\n")


@pytest.mark.parametrize("form", [["jobs/tokenize.py"], ["-m", "jobs.train_stage"], ["-P", "jobs/generate.py"]])
def test_help_names_every_flag_with_its_default(form: list[str]) -> None:
    shown = subprocess.run([sys.executable, *form, "--help"], cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert "--recipe" in shown.stdout and "default: demo" in shown.stdout and "--set" in shown.stdout


def test_tests_mirror_the_source_and_no_test_imports_a_test() -> None:
    """What tests share lives in tests/support, and fixtures in a conftest."""
    tests = CHECKOUT / "tests"
    for path in tests.rglob("*.py"):
        own = path.relative_to(tests).parent
        assert own.parts[:1] in ((), ("support",), ("end_to_end",)) or (CHECKOUT / own / "__init__.py").exists(), path
        for name in imports_of(path):
            assert not name.startswith("tests") or name == "tests" or name.startswith("tests.support"), (path, name)


def test_files_and_functions_are_short() -> None:
    """Outside of recipes, which are data. A reader keeps a function of 60 lines in view, and a file of 300 in mind."""
    long = []
    tops = ("cluster", "jobs", "pipeline", "tokenization")
    for path in [path for top in tops for path in (CHECKOUT / top).rglob("*.py")]:
        if (CHECKOUT / "jobs" / "recipes") in path.parents:
            continue
        text = path.read_text()
        if len(text.splitlines()) > 300:
            long.append(f"{path}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > 60:
                long.append(f"{path}: {node.name}")
    assert not long, "\n".join(long)
