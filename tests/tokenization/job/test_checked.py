"""What a job has found out about VQ-GAN and vocabulary is found out once, and again when they change."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.past_run import PAST_RUN
from tests.support.small_run import small_vqgan
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.job import checks, encoder
from tokenization.job.checked import FILE
from tokenization.job.checks import keep_facts, make_fingerprint
from tokenization.job.encoder import check_encoder
from tokenization.job.rows import Tools

CONFIG = TokenizationConfig(size_px=32)


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    small_vqgan(1.0).save_pretrained(tmp_path / "vq")
    shutil.copytree(PAST_RUN / "tokenizer", tmp_path / "tokenizer")
    return Tools(tmp_path / "vq", str(tmp_path / "tokenizer"), tmp_path / "text")


def test_known_tools_are_not_loaded_again_until_a_file_of_them_changes(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = make_fingerprint(CONFIG, tools)
    assert not tools.text_cache.exists(), "what is refused later must change nothing"
    keep_facts(CONFIG, tools, found)
    check_encoder(CONFIG, tools, Workers())
    with monkeypatch.context() as patch:
        patch.setattr(checks, "_facts", lambda *words: pytest.fail("loaded again"))
        patch.setattr(encoder, "_encoder_problem", lambda *words: pytest.fail("encoded again"))
        assert make_fingerprint(CONFIG, tools) == found
        assert make_fingerprint(replace(CONFIG, size_px=64), tools).num_codes == 4 * found.num_codes
        check_encoder(CONFIG, tools, Workers())
    weights = tools.vq_folder / "diffusion_pytorch_model.safetensors"
    model = small_vqgan(0.5)
    model.save_pretrained(tools.vq_folder)
    assert weights.exists() and make_fingerprint(CONFIG, tools).vq_sha256 != found.vq_sha256
    (tools.text_cache / FILE).write_text("{broken")
    assert make_fingerprint(CONFIG, tools).text_vocabulary_sha256 == found.text_vocabulary_sha256
