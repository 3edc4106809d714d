"""The run's own language expert begins at once, however many captions it reads."""

from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pipeline.config.language_expert import LanguageExpertConfig
from pipeline.training import language_expert
from pipeline.training.language_expert import train_language_expert
from tests.support.past_run import PAST_RUN

CONFIG = LanguageExpertConfig(
    vocab_size=300,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    steps=1,
    batch_size=2,
    seq_len=16,
)


@pytest.mark.slow
def test_the_vocabulary_is_not_searched_for_each_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search of Qwen's vocabulary takes 0.1 to 0.3 s: for 500 pictures' captions, it took minutes."""
    calls: Counter[str] = Counter()
    search = language_expert.end_of_text_id

    def counted(tokenizer: PreTrainedTokenizerFast) -> int:
        calls["end_of_text_id"] += 1
        return search(tokenizer)

    monkeypatch.setattr(language_expert, "end_of_text_id", counted)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(PAST_RUN / "tokenizer")
    captions = [{"en": f"picture {number}", "zh": f"图{number}"} for number in range(50)]
    train_language_expert(CONFIG, captions, [[[5], [6]]] * 20, tokenizer, tmp_path / "lm", lambda figures: None)
    assert calls["end_of_text_id"] <= 2
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "lm").config.eos_token_id == search(tokenizer)
