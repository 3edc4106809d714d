"""Settings of the small language expert that the demo trains."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LanguageExpertConfig:
    """Geometry (as in the Qwen2 config) and schedule of the demo's language expert."""

    vocab_size: int = 151_936
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 4
    where: str = ""
    """Pandas query over the token table's plain columns that selects the captions it reads; empty for all. The model
    learns to fetch only after it has seen each caption some tens of times."""
    steps: int = 350
    batch_size: int = 16
    seq_len: int = 128
    plain_share: float = 0.4
    """Share of the documents without anything to fetch: a caption, half of the time after an instruction."""
    text_share: float = 0.1
    """Share of the documents that are texts of interleaved documents, if there are any."""
    max_gap: int = 80
    """Maximum number of positions that such a text skips in place of a picture."""
    max_blanks: int = 4
    """At most this many blanks before and after the caption that is to be fetched."""
    embedding_std: float = 0.02
    """Initial standard deviation of the word vectors. Words in the same contexts, such as colours, stay as close to
    each other as they began until the text to be fetched depends on which of them it was."""
    learning_rate: float = 2e-3
    log_every_steps: int = 25
    seed: int = 0
