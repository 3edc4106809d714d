"""FID and CLIP score come from weights that the user names, and a wrong path is refused before anything runs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

from pipeline.errors import InputError
from pipeline.evaluation.outside_scores import OutsideWeights, check_weights, clip_score, fid


class MeanColours(torch.nn.Module):
    """Stands for Inception: features [B, 3] of uint8 pictures."""

    def forward(self, img: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert img.dtype == torch.uint8
        means = img.float().mean(dim=[2, 3])
        return means if return_features else means * 0


@pytest.fixture
def inception(tmp_path: Path) -> str:
    path = tmp_path / "inception.pt"
    torch.jit.script(MeanColours()).save(str(path))
    return str(path)


def pictures(count: int, seed: int = 0, low: int = 0) -> np.ndarray:
    colours = np.random.default_rng(seed).integers(low, low + 100, (count, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(colours, (count, 16, 16, 3)).copy()


def test_fid_is_the_distance_of_the_two_sets_features(inception: str) -> None:
    real = pictures(40)
    assert fid(inception, real, real) == pytest.approx(0, abs=1e-3)
    moved = real + np.uint8(30)  # features of the same spread, each 30 further: three squares of 30
    assert fid(inception, real, moved) == pytest.approx(3 * 30**2, rel=1e-4)


@pytest.fixture
def clip_folder(tmp_path: Path) -> str:
    torch.manual_seed(0)
    words = {word: number for number, word in enumerate(["<pad>", "<end>", "red", "blue"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", model_max_length=8
    )
    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = CLIPConfig(
        text_config=small | dict(vocab_size=4, max_position_embeddings=8, eos_token_id=1),
        vision_config=small | dict(image_size=16, patch_size=8),
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        tmp_path / "clip"
    )
    return str(tmp_path / "clip")


def test_the_clip_score_is_the_mean_cosine_of_picture_and_prompt(clip_folder: str) -> None:
    shown, prompts = pictures(3), ["red", "blue", "red blue"]
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(clip_folder)
    images = CLIPImageProcessorPil.from_pretrained(clip_folder)
    with torch.no_grad():
        pixels = images(images=list(shown), return_tensors="pt")["pixel_values"]
        output = model(**tokenizer(prompts, return_tensors="pt", padding=True), pixel_values=pixels)
    cosines = (output.image_embeds * output.text_embeds).sum(1)
    total, count = clip_score(clip_folder, shown, prompts)
    assert count == 3 and total == pytest.approx(100 * cosines.sum().item(), abs=1e-3)


def test_a_prompt_longer_than_clip_reads_is_cut_and_scored(clip_folder: str) -> None:
    total, count = clip_score(clip_folder, pictures(1), ["red " * 50])
    assert count == 1 and -100 <= total <= 100


def test_weights_that_are_not_there_or_not_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--fid-weights 'nowhere.pt' is no file; name a TorchScript"):
        check_weights(OutsideWeights(fid="nowhere.pt"))
    with pytest.raises(InputError, match="--clip-weights .* has no config.json"):
        check_weights(OutsideWeights(clip=str(tmp_path)))
    check_weights(OutsideWeights())
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(InputError, match="--fid-weights .* cannot be used"):
        fid(str(tmp_path / "text.pt"), pictures(2), pictures(2))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(InputError, match="--clip-weights .* cannot be used"):
        clip_score(str(tmp_path), pictures(1), ["red"])
    with pytest.raises(InputError, match="two pictures on each side, not 1 and 2"):
        fid(str(tmp_path / "text.pt"), pictures(1), pictures(2))
