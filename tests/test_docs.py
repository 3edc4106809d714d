"""The pages name what is there: files, links, and what CI runs."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.checkout import CHECKOUT

PAGES = [*sorted(CHECKOUT.glob("*.md")), *sorted((CHECKOUT / "docs").glob("*.md"))]
TOPS = ("cluster/", "docs/", "jobs/", "pipeline/", "tests/", "tokenization/")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    made = set(re.findall(r"^New file `([^`]+)`", text, re.MULTILINE))
    quoted = re.findall(r"`([\w./-]+\.(?:py|md|yaml|json|lock|html))`", text)
    named = {name for name in quoted if name.startswith(TOPS)} - made
    assert [name for name in sorted(named) if not (CHECKOUT / name).exists()] == []


def test_every_test_that_holds_a_format_is_there() -> None:
    page = (CHECKOUT / "docs/formats.md").read_text()
    files = [*(CHECKOUT / "tests").rglob("test_*.py")]
    text = "\n".join(path.read_text() for path in files)
    there = {*(path.name for path in files), *re.findall(r"^def (test_\w+)\(", text, re.MULTILINE)}
    named = re.findall(r"`(test_[\w.]+)`", page)
    assert len(named) > 30 and [name for name in named if name not in there] == []


def test_the_commit_hooks_run_what_ci_runs_for_lint() -> None:
    hooks = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    commands = [line.strip() for line in recipe.splitlines()]
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in hooks] == commands
    assert "make lint" in (CHECKOUT / ".ci/run").read_text()
