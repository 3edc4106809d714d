"""An exported folder gives others the same pictures, and its card has the run's numbers."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from jobs.common.recipes import load_recipe
from jobs.export_model import Options, main
from pipeline.checkpoints.manifest import (
    CheckpointManifest,
    finished_checkpoint,
    new_folder_name,
    rank_file,
    write_manifest,
)
from pipeline.checkpoints.optimizer_slices import KEYS, Slice
from pipeline.checkpoints.slice_files import write_slices
from pipeline.config.model import ModelOptions
from pipeline.config.recipe import CorpusConfig, Recipe, recipe_of
from pipeline.config.stage import StageConfig
from pipeline.errors import InputError, UsageError
from pipeline.generation.pictures import generate_codes
from pipeline.generation.sampling import Sampling
from pipeline.launch.stage_inputs import stage_inputs
from pipeline.model.loading import base_sha256, load_initial_model
from pipeline.model.mars import MarsForCausalLM, is_trained
from pipeline.runs.paths import RunPaths
from pipeline.weights.language_expert_formats import open_language_expert
from pipeline.weights.starting_model import StartOptions, make_starting_model
from tests.support.checkout import CHECKOUT
from tests.support.small_models import TEXT_VOCAB
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.vqgan import VqganConfig
from tokenization.files.atomic_writing import append_whole
from tokenization.files.storage import open_storage
from tokenization.job.checks import make_fingerprint
from tokenization.job.rows import Tools
from tokenization.table.token_writing import write_token_shard
from tokenization.vqgan.image_tokenizer import ImageTokenizer
from tokenization.vqgan.model import build_vqgan

SMALL_VQGAN = VqganConfig(block_out_channels=(8, 8, 8, 8, 8), latent_channels=4, codebook_size=32)
PROMPT = [11, 12]
DRAW = """
import sys, numpy as np, torch
from transformers import AutoModelForCausalLM
import pipeline.model
from pipeline.generation.pictures import generate_codes
from pipeline.generation.sampling import Sampling
from tokenization.vqgan.image_tokenizer import ImageTokenizer
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    codes = generate_codes(model, [[11, 12]], 4, Sampling(seed=3))
    np.save(f"{sys.argv[1]}/{folder.split('/')[-1]}.npy", ImageTokenizer(folder + "/vqgan").decode(codes))
"""


@dataclass(frozen=True)
class TrainedRun:
    """A run's folder with one finished stage, and the model that its checkpoint holds, in bfloat16."""

    paths: RunPaths
    checkpoint: str
    model: MarsForCausalLM


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    root = tmp_path_factory.mktemp("runs")
    words = Tokenizer(WordLevel({"<|endoftext|>": 0} | {f"w{number}": number for number in range(1, 200)}, "w1"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(root / "text")
    torch.manual_seed(0)
    build_vqgan(SMALL_VQGAN).save_pretrained(root / "vq")
    recipe = Recipe(
        name="demo",
        corpora={"main": CorpusConfig()},
        vqgan_folder=str(root / "vq"),
        text_tokenizer=str(root / "text"),
        tokenization=TokenizationConfig(size_px=32),
        stages=(StageConfig(purpose="a test's", steps=7), StageConfig(purpose="never begun", steps=9)),
        embedding_noise_std=0.02,
    )
    paths = RunPaths(root / "demo", recipe)
    config = Qwen2Config(vocab_size=TEXT_VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2)
    config.num_attention_heads = config.num_key_value_heads = 4
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(paths.language_expert)
    fingerprint = make_fingerprint(recipe.tokenization, Tools(paths.vqgan, recipe.text_tokenizer, paths.text))
    row = {"sample_id": "a", "codes": [1, 2, 3, 4], "captions": [], "width": 9, "height": 9}
    write_token_shard(Path(paths.tokens) / "a.parquet", [row], fingerprint)
    (Path(paths.tokens) / "manifest.json").write_text(json.dumps({"rows_in": 1234, "rows_out": 1233}))
    model = load_initial_model(paths.language_expert, 32, torch.bfloat16, ModelOptions(embedding_noise_std=0.02)).eval()
    language_expert_hash = base_sha256(model)
    slices, shapes = [], {}
    for name, parameter in model.named_parameters():
        if is_trained(name):
            parameter.data += 0.2 * torch.randn_like(parameter)
            shapes[f"mars.{name}"] = tuple(parameter.shape)
            flat = parameter.detach().float().flatten()
            slices.append(Slice(f"mars.{name}", 0, {key: flat.clone() for key in KEYS}))
    stage, folder = paths.stage(1), new_folder_name(7)
    (stage / "checkpoints" / folder).mkdir(parents=True)
    file = write_slices(stage / "checkpoints" / folder / rank_file(0), slices)
    files = {rank_file(0): file}
    manifest = CheckpointManifest(
        step=7,
        optimizer_steps=7,
        samples=448,
        world_size=1,
        finished=True,
        base_sha256=language_expert_hash,
        recipe_sha256="recipe",
        row_index_sha256="rows",
        initial_sha256="",
        shapes=shapes,
        files=files,
        guard={},
    )
    write_manifest(open_storage(stage / "checkpoints"), folder, manifest)
    (stage / "recipe.json").write_text(json.dumps(asdict(recipe)))
    (stage / "metrics.jsonl").write_text(
        '{"step": 7, "loss/text_to_image": 3.25}\n{"step": 8, "lo'
    )  # the machine crashed
    append_whole(stage / "metrics.jsonl", '{"step": 8, "loss/captioning": 1}\n')
    attempt = {"run": "demo", "job": "train_stage", "stage": "1", "gpu_model": "A100", "gpu_count": 4}
    ended = attempt | {"attempt": "x", "event": "end: done", "seconds": 43_200.0, "flop": 2.5e15, "time": 1.8e9}
    Path(paths.ledger).mkdir()
    (Path(paths.ledger) / "x.jsonl").write_text(json.dumps(ended) + "\n")
    return TrainedRun(paths, folder, model)


def picture(run: TrainedRun) -> np.ndarray:
    codes = generate_codes(run.model, [PROMPT], 4, Sampling(seed=3))
    return ImageTokenizer(run.paths.vqgan).decode(codes)


@pytest.mark.slow
def test_an_export_gives_the_same_pictures_in_a_fresh_process_whole_or_beside_its_language_expert(
    trained: TrainedRun, tmp_path: Path
) -> None:
    main(Options(checkpoint=str(trained.paths.run), out=str(tmp_path / "whole")))
    main(Options(checkpoint=str(trained.paths.stage(1)), out=str(tmp_path / "visual"), visual_only=True))
    folders = [str(tmp_path / name) for name in ("whole", "visual")]
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(tmp_path), *folders],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = picture(trained)
    assert len(np.unique(expected)) > 3
    for name in ("whole", "visual"):
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), expected), name
    sizes = [sum(path.stat().st_size for path in Path(each).glob("*.safetensors")) for each in folders]
    assert sizes[1] < 0.6 * sizes[0]


def test_the_cards_numbers_are_the_runs(trained: TrainedRun, tmp_path: Path) -> None:
    out = tmp_path / "out"
    checkpoint = trained.paths.stage(1) / "checkpoints" / trained.checkpoint
    main(Options(checkpoint=str(checkpoint), out=str(out)))
    card = (out / "README.md").read_text()
    total = sum(parameter.numel() for parameter in trained.model.parameters())
    assert f"{total:,}" in card and trained.checkpoint in card and "7, 448" in card
    assert "2 A100 GPU-days" in card and "2.5e+15" in card
    assert "1,233 of 1,234" in card and '`"a test\'s"`' not in card and "a test's | 7 of 7 | 448" in card
    assert "text_to_image 3.250" in card and "captioning 1.000" not in card, "the line after the checkpoint's step"
    assert base_sha256(load_initial_model(trained.paths.initial_model, 32, torch.bfloat16)) in card
    assert "never begun" not in card and "32 codes, factor 16, pixels from -1 to 1" in card
    kept = recipe_of(json.loads((out / "recipe.json").read_text()))
    assert kept == trained.paths.recipe


def test_a_run_whose_recipe_has_changed_is_exported_from_its_newest_stage_each_as_it_was_trained(
    trained: TrainedRun, tmp_path: Path
) -> None:
    """A stage was added later, and a setting of the first stage was changed after its training."""
    run, recipe = tmp_path / "demo", trained.paths.recipe
    shutil.copytree(trained.paths.run, run)
    shutil.copytree(run / "stage1", run / "stage2")
    first = replace(recipe, stages=recipe.stages[:1])
    added = StageConfig(purpose="added later", steps=7)
    second = replace(recipe, stages=(replace(recipe.stages[0], purpose="changed since"), added))
    for number, kept in enumerate((first, second), start=1):
        (run / f"stage{number}" / "recipe.json").write_text(json.dumps(asdict(kept)))
    main(Options(checkpoint=str(run), out=str(tmp_path / "out")))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "a test's | 7 of 7" in card and "added later | 7 of 7" in card and "changed since" not in card
    assert recipe_of(json.loads((tmp_path / "out" / "recipe.json").read_text())) == second


def test_a_visual_expert_without_its_language_expert_is_refused_and_takes_another_place_of_it(
    trained: TrainedRun, tmp_path: Path
) -> None:
    options = Options(checkpoint=str(trained.paths.run), out=str(tmp_path / "visual"), visual_only=True)
    main(replace(options, language_expert="nobody/nothing"))
    with pytest.raises(InputError, match="'nobody/nothing' is no folder here, and the hub cannot be reached"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "visual")
    own = str(trained.paths.language_expert)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "visual", language_expert_source=own)
    other = dict(trained.model.named_parameters())
    assert all(torch.equal(parameter, other[name]) for name, parameter in model.named_parameters())
    backbone, report = AutoModel.from_pretrained(
        tmp_path / "visual", language_expert_source=own, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert all(torch.equal(parameter, other[f"model.{name}"]) for name, parameter in backbone.named_parameters())
    model.save_pretrained(tmp_path / "whole again")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "whole again").config.language_expert_source == ""
    torch.manual_seed(5)
    stranger = AutoModelForCausalLM.from_config(open_language_expert(Path(own)).config, dtype=torch.bfloat16)
    stranger.save_pretrained(tmp_path / "stranger")
    with pytest.raises(InputError, match="belongs to another language expert"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "visual", language_expert_source=str(tmp_path / "stranger"))


def test_a_checkpoint_on_a_starting_model_exports_the_same(trained: TrainedRun, tmp_path: Path) -> None:
    paths = trained.paths
    options = StartOptions(32, ModelOptions(embedding_noise_std=0.02))
    make_starting_model(
        open_language_expert(paths.language_expert), str(paths.language_expert), options, paths.start, print
    )
    try:
        assert paths.initial_model == paths.start
        main(Options(checkpoint=str(paths.run), out=str(tmp_path / "out")))
    finally:
        for path in sorted(paths.start.iterdir()):
            path.unlink()
        paths.start.rmdir()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    other = dict(trained.model.named_parameters())
    assert all(torch.equal(parameter, other[name]) for name, parameter in model.named_parameters())


def test_an_export_above_the_size_of_a_file_is_several_that_load_as_one(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.export.export.SHARD_BYTES", 20_000)
    main(Options(checkpoint=str(trained.paths.run), out=str(tmp_path / "out")))
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    other = dict(trained.model.named_parameters())
    assert all(torch.equal(parameter, other[name]) for name, parameter in model.named_parameters())


def test_weights_that_were_told_other_picture_positions_are_refused(trained: TrainedRun, tmp_path: Path) -> None:
    """No parameter shows it: the pictures would be noise."""
    record = trained.paths.stage(1) / "recipe.json"
    kept = record.read_text()
    record.write_text(json.dumps(json.loads(kept) | {"picture_position_std": 0.05}))
    try:
        with pytest.raises(InputError, match=r"was trained with picture_position_std 0.0, not 0.05; undo the change"):
            main(Options(checkpoint=str(trained.paths.run), out=str(tmp_path / "out")))
        other = replace(trained.paths.recipe, picture_position_std=0.05)
        first = finished_checkpoint(trained.paths.checkpoints(1))
        with pytest.raises(InputError, match=r"was trained with picture_position_std 0.0, not 0.05"):
            stage_inputs(2, other, trained.paths, first)
    finally:
        record.write_text(kept)


def test_what_cannot_be_exported_is_refused(trained: TrainedRun, tmp_path: Path) -> None:
    run = str(trained.paths.run)
    with pytest.raises(UsageError, match="--out FOLDER"):
        main(Options(checkpoint=run))
    with pytest.raises(UsageError, match="is not empty"):
        main(Options(checkpoint=run, out=run))
    with pytest.raises(UsageError, match="--language-expert is for --visual-only"):
        main(Options(checkpoint=run, out=str(tmp_path / "out"), language_expert="a/b"))
    with pytest.raises(InputError, match="has no stage that was trained"):
        main(Options(checkpoint=str(tmp_path), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["demo", "demo_compose", "mars_05b", "mars_1b", "mars_7b"])
def test_a_recipe_comes_back_from_the_json_that_a_stage_keeps(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe_of(json.loads(json.dumps(asdict(recipe)))) == recipe
