"""Settings of a tokenization."""

from dataclasses import dataclass, field

from tokenization.config.checks import below
from tokenization.config.pictures import Limits, Transform

ENCODER_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TokenizationConfig:
    """The settings that decide the tokens.

    Attributes:
        size_px: side of the square that is encoded, px.
        size_hr_px: side of the same crop encoded at the high resolution, px; 0 for none.
        hr_where: pandas query over the corpus's own columns that selects the pictures to encode at the high resolution;
            empty for all.
        caption_columns: maps metadata columns to the language of their captions; several may have the same language.
        max_caption_ids: longer captions are cut to this many ids and marked.
        encode_batch_size: pictures the VQ-GAN encodes at once; the last batch of a shard is padded to it.
        encoder_dtype: one of `ENCODER_DTYPES`.
        limits: limits of the pictures that are used.
    """

    size_px: int = 128
    size_hr_px: int = 0
    hr_where: str = ""
    caption_columns: dict[str, str] = field(default_factory=lambda: {"caption_en": "en", "caption_zh": "zh"})
    max_caption_ids: int = 77
    encode_batch_size: int = 32
    encoder_dtype: str = "float32"
    limits: Limits = Limits()

    def problems(self) -> list[str]:
        """Returns the reasons why the settings are invalid; empty if they are valid."""
        found = below(1, self, ("size_px", "max_caption_ids", "encode_batch_size")) + below(0, self, ("size_hr_px",))
        if self.encoder_dtype not in ENCODER_DTYPES:
            found.append(f"encoder_dtype is {self.encoder_dtype!r}, but must be one of {', '.join(ENCODER_DTYPES)}")
        return found + [f"limits.{problem}" for problem in self.limits.problems()]

    @property
    def transform(self) -> Transform:
        """The transform of source pictures."""
        return Transform(self.size_px, self.size_hr_px, self.limits)

    @property
    def encode_batch_size_hr(self) -> int:
        """Batch size at the high resolution, with as many pixels per batch as at the base resolution."""
        return max(1, self.encode_batch_size * self.size_px**2 // self.size_hr_px**2) if self.size_hr_px else 0
