"""Recipes: frozen dataclass trees, and overriding one of their values from the command line."""

import ast
import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import jobs.recipes
from jobs.common.exit_codes import UsageError
from pipeline.deepspeed_engine import ZeroConfig
from pipeline.language_expert import LanguageExpertConfig
from pipeline.ray_training import ScalingConfig
from pipeline.stage_config import StageConfig
from tokenization.shard_rows import TokenizationConfig
from tokenization.vqgan_config import VqganConfig
from tokenization.workers import Workers


@dataclass(frozen=True)
class CorpusConfig:
    """The corpus.

    Attributes:
        path: folder or `s3://bucket/prefix`; empty for the OpenMoji drawings, which `jobs/make_corpus.py` renders.
        layout, image_column, folder_shard_rows: see `CorpusSource`.
        size_px, shard_rows: side of a rendered drawing, px, and drawings a shard.
    """

    path: str = ""
    layout: str = ""
    image_column: str = ""
    folder_shard_rows: int = 1000
    size_px: int = 256
    shard_rows: int = 256


@dataclass(frozen=True)
class EvaluationConfig:
    """How the demo is scored and shown.

    Attributes:
        temperature, top_k, guidance_scale: of the sampled codes; temperature 0 takes the likeliest.
        batch_size: prompts generated at once.
        max_caption_ids: of a generated caption.
        grid_drawings: drawings shown in the grid and in the VQ-GAN's sheet.
        where: pandas query over the token table's plain columns: the drawings that are generated and scored; empty
            for those that the last stage trained on.
        composition: score whether pictures have the right skin tone, pairs seen and unseen in training apart.
    """

    temperature: float = 0.0
    top_k: int = 0
    guidance_scale: float = 1.0
    batch_size: int = 64
    max_caption_ids: int = 32
    grid_drawings: int = 12
    where: str = ""
    composition: bool = False


@dataclass(frozen=True)
class Recipe:
    """Everything a run is made of.

    Attributes:
        name: also the run's folder under the root.
        corpus, vqgan, tokenization: the data side.
        vqgan_folder: a saved VQ-GAN; empty for the one shipped with the project.
        text_tokenizer: see `tokenization.text_tokenizer.load_text_tokenizer`.
        language_expert_folder: a Qwen2 checkpoint; empty to train the small one of `language_expert`.
        shared_output_projection, embedding_noise_std: see `MarsConfig`.
        stages: the curriculum.
        scaling, tokenizers, zero: workers of training and of tokenization, partitioning.
        heartbeat_s: seconds between two ledger rows.
        seed: of the order and of all draws.
    """

    name: str
    corpus: CorpusConfig = CorpusConfig()
    vqgan: VqganConfig = VqganConfig()
    vqgan_folder: str = ""
    text_tokenizer: str = "dashscope"
    tokenization: TokenizationConfig = TokenizationConfig()
    language_expert: LanguageExpertConfig = LanguageExpertConfig()
    language_expert_folder: str = ""
    shared_output_projection: bool = False
    embedding_noise_std: float = 0.0
    stages: tuple[StageConfig, ...] = ()
    scaling: ScalingConfig = ScalingConfig()
    tokenizers: Workers = Workers()
    zero: ZeroConfig = ZeroConfig()
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    heartbeat_s: float = 60.0
    seed: int = 0


def load_recipe(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe `jobs/recipes/NAME.py` returns, with `a.b=value` overrides applied.

    Raises:
        UsageError: no such recipe, an unknown key, a value of the wrong type, or an impossible stage.
    """
    known = sorted(module.name for module in iter_modules(jobs.recipes.__path__))
    if name not in known:
        raise UsageError(f"there is no recipe {name!r}; the recipes are {', '.join(known)}")
    recipe: Recipe = import_module(f"jobs.recipes.{name}").recipe()
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise UsageError(f"--set {override!r} has no '='; write --set a.b=value")
        recipe = _set(recipe, key.split("."), value, key)
    for number, stage in enumerate(recipe.stages, start=1):
        problems = stage.problems()
        if stage.attention == "flex_attention" and not recipe.scaling.use_gpu:
            problems.append("attention 'flex_attention' trains on GPUs only; set sdpa or eager")
        if problems:
            raise UsageError(f"stage {number} of recipe {name!r}: {'; '.join(problems)}")
    return recipe


def sha256_of(*parts: Any) -> str:
    """A hash of dataclasses and plain values."""
    plain = [dataclasses.asdict(part) if is_dataclass(part) and not isinstance(part, type) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()


def _set(node: Any, path: list[str], text: str, key: str) -> Any:
    name, rest = path[0], path[1:]
    if isinstance(node, tuple):
        if not name.isdigit() or int(name) >= len(node):
            raise UsageError(f"--set {key}: {name!r} is none of the positions 0 to {len(node) - 1}")
        place = int(name)
        changed = _set(node[place], rest, text, key) if rest else _parse(text, type(node[place]), key)
        return (*node[:place], changed, *node[place + 1 :])
    if isinstance(node, dict):
        old = node.get(name)
        return node | {name: _set(old, rest, text, key) if rest else _parse(text, type(old), key)}
    if not is_dataclass(node) or isinstance(node, type):
        raise UsageError(f"--set {key}: there is nothing below {path[0]!r}")
    names = [one.name for one in fields(node)]
    if name not in names:
        raise UsageError(f"--set {key}: there is no {name!r}; the keys here are {', '.join(names)}")
    if rest:
        return replace(node, **{name: _set(getattr(node, name), rest, text, key)})
    annotation = typing.get_type_hints(type(node))[name]
    return replace(node, **{name: _parse(text, typing.get_origin(annotation) or annotation, key)})


def _parse(text: str, kind: type, key: str) -> Any:
    if kind is str:
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError) as error:
        raise UsageError(f"--set {key}={text}: not a Python literal; a {kind.__name__} is wanted") from error
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is not type(None) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise UsageError(f"--set {key}={text}: a {kind.__name__} is wanted, not a {type(value).__name__}")
    return value
