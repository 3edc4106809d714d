"""`MarsConfig`: a Qwen2 config plus the visual side."""

from dataclasses import asdict, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Qwen2Config

from pipeline.config.model import DEFAULT_OPTIONS, ModelOptions
from pipeline.config.vocabulary import JointVocabulary


@strict
class MarsConfig(Qwen2Config):
    """Configuration of `MarsForCausalLM`.

    `vocab_size` is the joint vocabulary's, derived from the two sizes below; everything else is
    the language expert's own Qwen2 config.

    Args:
        text_vocab_size: rows of the language expert's embedding, its padding rows included.
        codebook_size: codes of the VQ-GAN.
        shared_output_projection, embedding_noise_std, picture_position_std: see `ModelOptions`.
        language_expert_source: set if a folder holds the visual expert alone: the folder or hub name of the language
            expert that it belongs to. Empty if the folder holds both.
        language_expert_sha256: the hash of that language expert (`pipeline.model.loading.base_sha256`).
    """

    model_type = "mars"

    text_vocab_size: int = 151936
    codebook_size: int = 8192
    shared_output_projection: bool = False
    embedding_noise_std: float = 0.0
    picture_position_std: float = 0.0
    language_expert_source: str = ""
    language_expert_sha256: str = ""

    def __post_init__(self, **kwargs: Any) -> None:
        self.vocab_size = JointVocabulary(self.text_vocab_size, self.codebook_size).size
        super().__post_init__(**kwargs)

    @property
    def vocabulary(self) -> JointVocabulary:
        """The joint vocabulary's id arithmetic."""
        return JointVocabulary(self.text_vocab_size, self.codebook_size)

    @property
    def options(self) -> ModelOptions:
        """The model options that the recipe chose."""
        return ModelOptions(**{one.name: getattr(self, one.name) for one in fields(ModelOptions)})

    def language_expert(self) -> Qwen2Config:
        """The language expert's own config."""
        known = Qwen2Config().to_dict().keys() - {"model_type", "architectures", "vocab_size"}
        values = {key: value for key, value in self.to_dict().items() if key in known}
        return Qwen2Config(vocab_size=self.text_vocab_size, **values)

    @classmethod
    def from_language_expert(
        cls, base: Qwen2Config, codebook_size: int, options: ModelOptions = DEFAULT_OPTIONS
    ) -> "MarsConfig":
        """The MARS config on a Qwen2 language expert, for a VQ-GAN with `codebook_size` codes."""
        values = base.to_dict()
        for key in ("model_type", "architectures", "transformers_version", "vocab_size", "layer_types"):
            values.pop(key, None)
        return cls(text_vocab_size=base.vocab_size, codebook_size=codebook_size, **values, **asdict(options))
