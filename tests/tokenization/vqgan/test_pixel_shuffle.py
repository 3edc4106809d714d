"""The project's own VQ-GAN network: codes are local, folders load as they were saved, and training resumes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenization.config.vqgan import VqganConfig
from tokenization.errors import InputError
from tokenization.vqgan.image_tokenizer import ImageTokenizer
from tokenization.vqgan.model import build_vqgan
from tokenization.vqgan.training import STATE_FILE, train_vqgan

SMALL = VqganConfig(
    architecture="pixel_shuffle",
    image_size_px=32,
    encoder_channels=(16, 16, 16),
    encoder_blocks=(1, 1, 0),
    decoder_channels=(32, 16),
    decoder_blocks=(1, 1),
    latent_channels=4,
    codebook_size=16,
    steps=6,
    global_batch_size=4,
    muon_learning_rate=0.02,
    warmup_steps=1,
    decay_steps=2,
    noise_steps=2,
    decoder_only_steps=2,
    large_share=0.5,
    mirrored_share=0.5,
    log_every_steps=1,
    save_every_steps=1,
)


def pictures(count: int, side: int) -> np.ndarray:
    """Squares of one colour on another, uint8 [count, side, side, 3]."""
    random = np.random.default_rng(0)
    made = np.repeat(random.integers(0, 256, (count, 1, 1, 3), dtype=np.uint8), side, 1).repeat(side, 2)
    made[:, side // 4 : side // 2, side // 4 : side // 2] = random.integers(0, 256, (count, 1, 1, 3), dtype=np.uint8)
    return made


def batches() -> Iterator[torch.Tensor]:
    """The same pictures for ever, at twice the training size."""
    while True:
        yield torch.from_numpy(pictures(4, 64)).permute(0, 3, 1, 2)


def trained(config: VqganConfig, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors after training to the config's end."""
    return train_vqgan(config, batches(), folder, torch.device("cpu"), lambda _: None).state_dict()


def test_a_latent_depends_on_what_is_near_it_alone() -> None:
    torch.manual_seed(0)
    vqgan = build_vqgan(SMALL)
    for parameter in vqgan.parameters():  # the blocks begin as zero
        torch.nn.init.normal_(parameter, std=0.3)
    one = torch.rand(1, 3, 128, 128) * 2 - 1
    other = one.clone()
    other[..., 64:] = torch.rand(1, 3, 128, 64) * 2 - 1
    with torch.no_grad():
        latents, changed = (vqgan.quant_conv(vqgan.encoder(picture)) for picture in (one, other))
    assert torch.equal(latents[..., :2], changed[..., :2])
    assert not torch.isclose(latents[..., 4:], changed[..., 4:]).any()


def test_a_saved_network_gives_the_same_codes_and_pictures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vqgan = build_vqgan(SMALL)
    torch.nn.init.normal_(vqgan.quantize.embedding.weight)
    vqgan.save_pretrained(tmp_path)
    tokenizer = ImageTokenizer(tmp_path)
    assert (tokenizer.factor, tokenizer.codebook_size) == (16, 16)
    made = pictures(2, 64)
    codes = tokenizer.encode(made)
    with torch.no_grad():
        scaled = torch.from_numpy(made).permute(0, 3, 1, 2) / 127.5 - 1
        latents = vqgan.quant_conv(vqgan.encoder(scaled)).permute(0, 2, 3, 1).flatten(1, 2)
        expected = torch.cdist(latents, vqgan.quantize.embedding.weight).argmin(2)
        rows = vqgan.quantize.embedding(expected).view(2, 4, 4, 4).permute(0, 3, 1, 2)
        pixels = vqgan.decoder(vqgan.post_quant_conv(rows)).permute(0, 2, 3, 1)
    assert np.array_equal(codes, expected.numpy())
    assert np.array_equal(tokenizer.decode(codes), ((pixels + 1) * 127.5).round().clamp(0, 255).byte().numpy())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("encoder_blocks", [1, 1], "encoder_channels and encoder_blocks have 3 and 2 levels"),
        ("decoder_channels", [8] * 6, "decoder_channels and decoder_blocks have 6 and 2 levels"),
        ("codebook_size", 32, "quantize.embedding.weight.*has shape"),
    ],
)
def test_a_folder_that_was_changed_is_refused(key: str, value: object, message: str, tmp_path: Path) -> None:
    build_vqgan(SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=message):
        ImageTokenizer(tmp_path)


@pytest.mark.parametrize("stop", [1, 3, 5], ids=["in the noise", "quantized", "decoder alone"])
def test_a_training_that_stopped_goes_on_with_the_step_and_the_weights_that_it_had(stop: int, tmp_path: Path) -> None:
    def log(figures: dict[str, float]) -> None:
        steps.append(int(figures["step"]))
        if figures["step"] > stop and len(steps) == stop + 1:
            raise KeyboardInterrupt

    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        train_vqgan(SMALL, batches(), tmp_path, torch.device("cpu"), log)
    saved = torch.load(tmp_path / STATE_FILE, weights_only=True)
    ended = train_vqgan(SMALL, batches(), tmp_path, torch.device("cpu"), log).state_dict()
    assert saved["step"] == stop and steps == [*range(1, stop + 2), *range(stop + 1, 7)]
    before = {name.removeprefix("vqgan."): value for name, value in saved["model"].items()}
    kept = {name for name in ended if name in before and torch.equal(before[name], ended[name])}
    frozen = {name for name in ended if name.startswith(("encoder.", "quant_conv."))} if stop == 5 else set()
    assert kept - {"quantize.embedding.weight"} == frozen, "weights that were, or were not, trained on"
    assert all(value.isfinite().all() for value in ended.values())


def test_a_state_of_before_a_setting_was_there_goes_on_with_its_usual_value_alone(tmp_path: Path) -> None:
    usual = replace(SMALL, steps=2, decoder_only_steps=0)
    trained(usual, tmp_path)
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    del state["config"]["synthetic_share"]
    torch.save(state, tmp_path / STATE_FILE)
    trained(replace(usual, steps=3), tmp_path)
    assert torch.load(tmp_path / STATE_FILE, weights_only=True)["step"] == 3
    torch.save(state, tmp_path / STATE_FILE)
    with pytest.raises(InputError, match="was made with another synthetic_share"):
        trained(replace(usual, synthetic_share=0.5), tmp_path)


def test_muon_and_adamw_train_every_weight(tmp_path: Path) -> None:
    torch.manual_seed(SMALL.seed)
    before = {name: value.clone() for name, value in build_vqgan(SMALL).state_dict().items()}
    after = trained(SMALL, tmp_path)
    assert not [name for name in before if torch.equal(before[name], after[name])]
