"""`MarsConfig`: the config of a Qwen2 or a Qwen3 plus the visual side."""

from dataclasses import asdict, fields
from typing import Any, TypeAlias

from huggingface_hub.dataclasses import strict
from transformers import Qwen2Config, Qwen3Config

from pipeline.config.model import DEFAULT_OPTIONS, ModelOptions
from pipeline.config.vocabulary import JointVocabulary

ExpertConfig: TypeAlias = Qwen2Config | Qwen3Config
"""Config of a language expert."""

OF_QWEN2 = (
    ("head_dim", None),
    ("qkv_bias", True),
    ("query_key_norm", False),
    ("visual_query_key_norm", False),
)
"""Values of `MarsConfig` on a Qwen2, and of options that are off."""


@strict
class MarsConfig(Qwen2Config):
    """Configuration of `MarsForCausalLM`.

    `vocab_size` is the joint vocabulary's, derived from the two sizes below; everything else is
    the language expert's own config.

    Args:
        text_vocab_size: rows of the language expert's embedding, its padding rows included.
        codebook_size: codes of the VQ-GAN.
        head_dim: size of a head; None for `hidden_size / num_attention_heads`, as in a Qwen2.
        qkv_bias: the projections to queries, keys and values have biases, as in a Qwen2.
        query_key_norm: queries and keys are normalised head by head, as in a Qwen3.
        shared_output_projection, embedding_noise_std, picture_position_std, visual_query_key_norm: see `ModelOptions`.
        language_expert_source: set if a folder holds the visual expert alone: the folder or hub name of the language
            expert that it belongs to. Empty if the folder holds both.
        language_expert_sha256: the hash of that language expert (`pipeline.model.loading.base_sha256`).
    """

    model_type = "mars"

    text_vocab_size: int = 151936
    codebook_size: int = 8192
    head_dim: int | None = None
    qkv_bias: bool = True
    query_key_norm: bool = False
    shared_output_projection: bool = False
    embedding_noise_std: float = 0.0
    picture_position_std: float = 0.0
    visual_query_key_norm: bool = False
    language_expert_source: str = ""
    language_expert_sha256: str = ""

    def __post_init__(self, **kwargs: Any) -> None:
        self.vocab_size = JointVocabulary(self.text_vocab_size, self.codebook_size).size
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The values as they are saved. Those of a Qwen2 are left out: configs of earlier code have no such keys."""
        values: dict[str, Any] = super().to_dict()
        return {key: value for key, value in values.items() if (key, value) not in OF_QWEN2}

    @property
    def vocabulary(self) -> JointVocabulary:
        """The joint vocabulary's id arithmetic."""
        return JointVocabulary(self.text_vocab_size, self.codebook_size)

    @property
    def head_size(self) -> int:
        """Size of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def norms_visual_queries(self) -> bool:
        """The visual expert normalises its queries and keys, by the language expert's design or by the recipe's."""
        return self.query_key_norm or self.visual_query_key_norm

    @property
    def options(self) -> ModelOptions:
        """The model options that the recipe chose."""
        return ModelOptions(**{one.name: getattr(self, one.name) for one in fields(ModelOptions)})

    def language_expert(self) -> ExpertConfig:
        """The language expert's own config: a Qwen3's if it normalises queries and keys."""
        kind = Qwen3Config if self.query_key_norm else Qwen2Config
        known = kind().to_dict().keys() - {"model_type", "architectures", "vocab_size"}
        values = {key: value for key, value in self.to_dict().items() if key in known}
        return kind(vocab_size=self.text_vocab_size, **values)

    @classmethod
    def from_language_expert(
        cls, base: ExpertConfig, codebook_size: int, options: ModelOptions = DEFAULT_OPTIONS
    ) -> "MarsConfig":
        """The MARS config on a language expert, for a VQ-GAN with `codebook_size` codes."""
        values = base.to_dict()
        for key in ("model_type", "architectures", "transformers_version", "vocab_size", "layer_types"):
            values.pop(key, None)
        if isinstance(base, Qwen3Config):
            values |= {"query_key_norm": True, "qkv_bias": values.pop("attention_bias")}
        return cls(text_vocab_size=base.vocab_size, codebook_size=codebook_size, **values, **asdict(options))
