"""Settings can be read, and recipes written, without the libraries that training needs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.checkout import CHECKOUT
from tokenization.config.cpu import fast_cpu_dtype
from tokenization.dtypes import fast_dtype

IMPORTED = """
import json, sys, time
before, start = set(sys.modules), time.process_time()
for name in sys.argv[1:]:
    __import__(name)
print(json.dumps([sorted({name.split(".")[0] for name in set(sys.modules) - before}), time.process_time() - start]))
"""
MAX_CPU_S = 0.25


def packages_loaded_by(*modules: str) -> tuple[set[str], float]:
    """The packages that an import in a fresh process loads besides the standard library, and its CPU seconds."""
    command = [sys.executable, "-c", IMPORTED, *modules]
    shown = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    packages, cpu_s = json.loads(shown.stdout)
    return set(packages) - sys.stdlib_module_names, cpu_s


def test_importing_the_settings_loads_the_standard_library_alone_and_takes_no_time() -> None:
    packages, cpu_s = packages_loaded_by("pipeline.config")
    assert packages == {"pipeline", "tokenization"}
    assert cpu_s < MAX_CPU_S


def test_every_module_of_the_config_packages_loads_the_standard_library_alone() -> None:
    folders = [CHECKOUT / "pipeline" / "config", CHECKOUT / "tokenization" / "config"]
    modules = [path.relative_to(CHECKOUT).with_suffix("") for folder in folders for path in folder.glob("*.py")]
    names = [".".join(path.parts).removesuffix(".__init__") for path in modules]
    packages, _ = packages_loaded_by(*names, "pipeline.errors", "tokenization.errors", "tokenization.dtypes")
    assert packages == {"pipeline", "tokenization"}


@pytest.mark.parametrize("path", sorted((CHECKOUT / "jobs" / "recipes").glob("[!_]*.py")), ids=lambda path: path.name)
def test_a_recipe_needs_one_import_line_and_loads_nothing_heavy(path: Path) -> None:
    ours = {"cluster", "jobs", "pipeline", "tokenization"}
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    assert [node.module for node in nodes if node.module and node.module.split(".")[0] in ours] == ["pipeline.config"]
    packages, _ = packages_loaded_by(f"jobs.recipes.{path.stem}")
    assert packages <= {"jobs", "pipeline", "tokenization"}


def test_the_cpus_fast_dtype_is_what_torch_finds() -> None:
    known = torch.cpu.get_capabilities()
    has_bfloat16 = bool(known.get("avx512_bf16") or known.get("amx_tile"))
    assert (fast_cpu_dtype() == "bfloat16") is has_bfloat16
    assert fast_dtype("cpu") is getattr(torch, fast_cpu_dtype())
    assert fast_dtype("cuda") is torch.bfloat16
