"""Reads the parameters of a request, each with its own refusal."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.generation.sampling import Sampling
from pipeline.serving.api_errors import ApiError, wrong
from pipeline.serving.served_model import ServedModel

IGNORED = ("user", "safety_identifier", "prompt_cache_key", "store", "metadata", "service_tier")
"""Parameters of OpenAI's interface that change no result."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "quality": ("auto", "standard"),
    "style": ("natural",),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "output_compression": (100,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logprobs": (False,),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "tools": ([],),
}
"""Parameters that this model has no other setting for, and the values that say so."""
MAX_DRAWN_SEED = 2**31 - 1
"""Seeds of requests without one are drawn up to this number, which every client can write."""


@dataclass
class Parameters:
    """The JSON object of a request. A parameter that nobody has read is refused at the end."""

    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        self._read: set[str] = set()

    def get(self, name: str) -> Any:
        """The value, or None."""
        self._read.add(name)
        return self.values.get(name)

    def text(self, name: str, usual: str, allowed: tuple[str, ...] = ()) -> str:
        """A text, one of `allowed` if there are any."""
        value = self.get(name)
        if value is None:
            return usual
        if not isinstance(value, str):
            raise wrong(name, f"{name} is {_shown(value)}, but must be a text", "invalid_type")
        if allowed and value not in allowed:
            raise wrong(name, f"{name} is {_shown(value)}, but must be one of {', '.join(allowed)}")
        return value

    def flag(self, name: str, usual: bool) -> bool:
        value = self.get(name)
        if value is None:
            return usual
        if not isinstance(value, bool):
            raise wrong(name, f"{name} is {_shown(value)}, but must be true or false", "invalid_type")
        return value

    def whole(self, name: str, usual: int, least: int, most: int) -> int:
        """A whole number from `least` to `most`."""
        value = self.get(name)
        if value is None:
            return usual
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong(name, f"{name} is {_shown(value)}, but must be a whole number", "invalid_type")
        if not least <= value <= most:
            raise wrong(name, f"{name} is {_shown(value)}, but must be from {least} to {most}")
        return value

    def number(self, name: str, usual: float, least: float, most: float, above: bool = False) -> float:
        """A number from `least` to `most`, or above `least`."""
        value = self.get(name)
        if value is None:
            return usual
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise wrong(name, f"{name} is {_shown(value)}, but must be a number", "invalid_type")
        if not least <= value <= most or (above and value == least):  # refuses NaN, too
            raise wrong(
                name,
                f"{name} is {_shown(value)}, but must be {'above' if above else 'from'} {least:g} "
                f"{'and at most' if above else 'to'} {most:g}",
            )
        return float(value)

    def check_all_read(self) -> None:
        """Refuses parameters that are not known, and settings that this model has not."""
        for name, value in self.values.items():
            if name in self._read or name in IGNORED or value is None:
                continue
            if name not in NEUTRAL:
                raise wrong(name, f"there is no parameter {name!r} here; leave it out", "unknown_parameter")
            if value not in NEUTRAL[name]:
                known = " or ".join(map(_shown, NEUTRAL[name]))
                raise wrong(
                    name, f"{name} is {_shown(value)}, which this model cannot do; leave it out, or give {known}"
                )


def read_seed(parameters: Parameters) -> int:
    """The seed, or one that is drawn."""
    return parameters.whole("seed", secrets.randbelow(MAX_DRAWN_SEED + 1), 0, 2**63 - 1)


def read_sampling(parameters: Parameters, served: ServedModel, usual: Sampling | None = None) -> Sampling:
    """How codes and text are sampled; what is left open is the recipe's, or `usual`."""
    usual = usual or Sampling(served.temperature, served.top_k, 1.0, served.guidance_scale)
    return Sampling(
        temperature=parameters.number("temperature", usual.temperature, 0, 10),
        top_k=parameters.whole("top_k", usual.top_k, 0, 1_000_000),
        top_p=parameters.number("top_p", usual.top_p, 0, 1, above=True),
        guidance_scale=parameters.number("guidance_scale", usual.guidance_scale, 0, 100),
    )


def check_model(parameters: Parameters, served: ServedModel) -> None:
    """Refuses a model of another name."""
    name = parameters.text("model", served.name)
    if name != served.name:
        raise ApiError(404, f"model is {_shown(name)}, and {served.name!r} is served here", "model", "model_not_found")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
