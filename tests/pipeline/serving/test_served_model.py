"""An exported folder says what a server must know, and a run is exported once for each checkpoint."""

import json
import shutil
from pathlib import Path

import pytest

from jobs.common.recipes import load_recipe
from pipeline.errors import InputError
from pipeline.runs.paths import RunPaths
from pipeline.serving.model_source import model_source
from pipeline.serving.served_model import SERVING_FILE, ServedModel, served_export


@pytest.fixture
def exported(served: ServedModel, tmp_path: Path) -> Path:
    shutil.copytree(served.export, tmp_path / "exported")
    (tmp_path / "exported" / SERVING_FILE).write_text(json.dumps(served.to_json() | {"export": "", "vqgan": ""}))
    return tmp_path / "exported"


def test_an_exported_folder_is_served_wherever_it_lies(served: ServedModel, exported: Path) -> None:
    found = model_source(str(exported), RunPaths(exported, load_recipe("demo")))()
    assert found.export == str(exported) and found.vqgan == str(exported / "vqgan")
    assert (found.name, found.source, found.high) == (served.name, served.source, served.high)
    assert served.high is not None and (served.size_px, served.size_hr_px, served.max_prompt_ids) == (32, 64, 12)


def test_another_folder_is_refused_with_what_to_do(exported: Path) -> None:
    (exported / SERVING_FILE).write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        served_export(exported)
    (exported / SERVING_FILE).unlink()
    with pytest.raises(InputError, match="export the checkpoint again, or name the run"):
        served_export(exported)


def test_the_export_in_a_run_is_served_by_naming_the_run(served: ServedModel) -> None:
    """The demo makes such a folder, and the run has what it lacks."""
    folder = Path(served.export)
    run = folder.parent.parent
    with pytest.raises(InputError, match=f"is a part of the run '{run}'; give --checkpoint {run}$"):
        served_export(folder)


def test_a_checkpoint_is_exported_once(served: ServedModel) -> None:
    folder = Path(served.export)
    run = folder.parent.parent
    before = (folder / "model.safetensors").stat().st_mtime_ns
    paths = RunPaths(run, load_recipe(str(run.parent / "recipe.py")))
    assert model_source(str(run / "stage2"), paths)() == served
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
