"""Recipes: everything a run is made of."""

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from pipeline.config.language_expert import LanguageExpertConfig
from pipeline.config.model import ModelOptions
from pipeline.config.scaling import ScalingConfig
from pipeline.config.shares import no_room
from pipeline.config.stage import MAIN, StageConfig
from pipeline.config.zero import ZeroConfig
from pipeline.errors import InputError
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.vqgan import VqganConfig
from tokenization.config.workers import Workers

TRACKERS = {"wandb": "wandb", "mlflow": "mlflow"}
"""Names that a recipe may give, and the packages they need."""

MADE = ("drawings", "lists")
"""Corpora that `pipeline.demo.corpora` makes."""
OLD_NAMES = {"grid_drawings": "grid_pictures", "drawings_per_list": "pictures_per_list"}
"""Fields as the `recipe.json` of older runs names them."""


@dataclass(frozen=True)
class CorpusConfig:
    """A corpus.

    Attributes:
        path: folder or `s3://bucket/prefix`; empty for what `jobs/make_corpus.py` makes.
        tokens: folder or `s3://bucket/prefix` of its tokens; empty for the run's own.
        made: what that job makes, one of `MADE`.
        high_resolution: its pictures get the high resolution, where tokenization has one.
        layout, image_column, folder_shard_rows: see `CorpusSource`.
        size_px, shard_rows: of a corpus that is made, side of a picture, px, and pictures a shard.
        groups, lists_per_group, pictures_per_list: of `lists`, see `tokenization.demo.lists`.
    """

    path: str = ""
    tokens: str = ""
    made: str = "drawings"
    high_resolution: bool = True
    layout: str = ""
    image_column: str = ""
    folder_shard_rows: int = 1000
    size_px: int = 256
    shard_rows: int = 256
    groups: tuple[str, ...] = ()
    lists_per_group: int = 3
    pictures_per_list: int = 3

    @property
    def has_documents(self) -> bool:
        """Whether its samples are interleaved documents."""
        return self.made == "lists" or self.layout == "documents"


@dataclass(frozen=True)
class EvaluationConfig:
    """How a run is scored and shown.

    Attributes:
        temperature, top_k, guidance_scale: of the sampled codes; temperature 0 takes the likeliest.
        batch_size: prompts generated at once.
        max_caption_ids: of a generated caption.
        grid_pictures: columns of the grid of generated pictures, and of the VQ-GAN's sheet.
        where: pandas query over the token table's plain columns: the samples that are generated and scored; empty
            for those that the last stage trained on.
        documents: the corpus whose documents are generated from their first lines and scored; empty for none.
        composition: add the scores of `pipeline.demo_scores.composition`.
    """

    temperature: float = 0.0
    top_k: int = 0
    guidance_scale: float = 1.0
    batch_size: int = 64
    max_caption_ids: int = 32
    grid_pictures: int = 12
    where: str = ""
    documents: str = ""
    composition: bool = False


@dataclass(frozen=True)
class PlanConfig:
    """What a dry run takes for given where there is nothing yet to look at.

    Attributes:
        gpu: model that the run is planned on, as in `A100-80GB`; empty where the recipe does not say.
        language_expert_geometry: of the language expert in `language_expert_folder`, a name in `GEOMETRIES`; empty to
            look into the folder.
        mean_caption_ids: ids of a caption on average.
        documents: pictures and text ids of a document on average, by the corpus that consists of such.
        budget_gpu_days: of each stage, in days of that GPU; a dry run refuses a plan that needs more. 0, or left out:
            none.
        pictures, pictures_hr: to tokenize, and of them in the high resolution, too; 0 for as many as the stage with
            most samples, and the one with that task, have samples.
        gpu_days_beside: A100 GPU-days that others have published, by what they trained, to show beside the plan's.
    """

    gpu: str = ""
    language_expert_geometry: str = ""
    mean_caption_ids: int = 77
    documents: dict[str, tuple[int, int]] = field(default_factory=dict)
    budget_gpu_days: tuple[float, ...] = ()
    pictures: int = 0
    pictures_hr: int = 0
    gpu_days_beside: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Everything a run is made of.

    Attributes:
        name: also the run's folder under the root.
        corpora: by name. The first one's shards and tokens lie in the run's `corpus` and `tokens`, those of each other
            one under `corpora/NAME`.
        vqgan, tokenization: what makes tokens of them.
        vqgan_folder: a VQ-GAN, see `tokenization.vqgan.formats`; empty for the one shipped with the project.
        text_tokenizer: see `tokenization.text_tokenizer.load_text_tokenizer`.
        language_expert_folder: Qwen-7B, Qwen1.5, Qwen2 or Qwen2.5, or a starting model of `jobs/init_model.py`; a hub
            name only for that job. Empty to train the small one of `language_expert`.
        shared_output_projection, embedding_noise_std, picture_position_std: see `ModelOptions`.
        stages: the curriculum.
        scaling, tokenizers, zero: workers of training and of tokenization, partitioning.
        checkpoint_folder: folder or `s3://bucket/prefix` that the stages' checkpoints go to; empty for the run's own.
        ledger_folder: the same of the ledger: under it, a folder with the recipe's name.
        trackers: `wandb`, `mlflow` or both: where training is shown beside TensorBoard.
        plan: what a dry run assumes and compares with.
        heartbeat_s: seconds between two ledger rows.
        seed: of the order and of all draws.
    """

    name: str
    corpora: dict[str, CorpusConfig] = field(default_factory=lambda: {MAIN: CorpusConfig()})
    vqgan: VqganConfig = VqganConfig()
    vqgan_folder: str = ""
    text_tokenizer: str = "dashscope"
    tokenization: TokenizationConfig = TokenizationConfig()
    language_expert: LanguageExpertConfig = LanguageExpertConfig()
    language_expert_folder: str = ""
    shared_output_projection: bool = False
    embedding_noise_std: float = 0.0
    picture_position_std: float = 0.0
    stages: tuple[StageConfig, ...] = ()
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    tokenizers: Workers = Workers()
    zero: ZeroConfig = ZeroConfig()
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint_folder: str = ""
    ledger_folder: str = ""
    trackers: tuple[str, ...] = ()
    plan: PlanConfig = PlanConfig()
    heartbeat_s: float = 60.0
    seed: int = 0

    @property
    def first_corpus(self) -> str:
        """The name of the corpus that the run's `corpus` and `tokens` are of."""
        return next(iter(self.corpora))

    @property
    def corpus(self) -> CorpusConfig:
        """The first corpus."""
        return self.corpora[self.first_corpus]

    @property
    def model_options(self) -> ModelOptions:
        """What it chooses of the model."""
        return ModelOptions(self.shared_output_projection, self.embedding_noise_std, self.picture_position_std)

    def problems(self) -> list[str]:
        """What makes it impossible; empty where nothing does."""
        found = []
        if not self.corpora:
            found.append(f"recipe {self.name!r} has no corpus")
        for name, lengths in self.plan.documents.items():
            if len(lengths) != 2 or not all(isinstance(one, int) and one > 0 for one in lengths):
                found.append(f"plan.documents.{name} is {lengths!r}, it must be two whole numbers above 0")
        found += self.model_options.problems()
        for name in self.trackers:
            if name not in TRACKERS:
                found.append(f"trackers has {name!r}; there are {', '.join(TRACKERS)}")
        for name, corpus in self.corpora.items():
            if corpus.made not in MADE:
                found.append(f"corpora.{name}.made is {corpus.made!r}, it must be one of {', '.join(MADE)}")
        if self.evaluation.documents and self.evaluation.documents not in self.corpora:
            known = ", ".join(self.corpora)
            found.append(f"evaluation.documents is {self.evaluation.documents!r}; the recipe's corpora are {known}")
        found += [f"scaling.{problem}" for problem in self.scaling.problems()]
        for number, stage in enumerate(self.stages, start=1):
            problems = stage.problems()
            if stage.attention == "flex_attention" and not self.scaling.use_gpu:
                problems.append("attention 'flex_attention' trains on GPUs only; set sdpa or eager")
            for name in stage.sources.keys() - self.corpora.keys():
                problems.append(f"sources has {name!r}; the recipe's corpora are {', '.join(self.corpora)}")
            if not problems and (
                problem := no_room([s.weight for s in stage.sources.values()], stage.global_batch_size)
            ):
                problems.append(problem)
            if problems:
                found.append(f"stage {number} of recipe {self.name!r}: {'; '.join(problems)}")
        return found


RENAMED = {"drawings_per_list": "pictures_per_list", "grid_drawings": "grid_pictures"}
"""Settings that version 0.1.0 wrote under other names into `recipe.json`."""


def recipe_of(values: dict[str, Any]) -> Recipe:
    """The recipe that a stage kept in its `recipe.json`.

    Raises:
        InputError: it is of a version of the project whose recipes have other values.
    """
    try:
        recipe: Recipe = _rebuilt(Recipe, values)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"recipe.json is of another version of the project: {error}") from error
    return recipe


def _rebuilt(kind: Any, value: Any) -> Any:
    """JSON's values as a type has them: dataclasses, tuples and dicts, one in the other."""
    if is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        value = {RENAMED.get(name, name): each for name, each in value.items()}
        named = {OLD_NAMES.get(name, name): each for name, each in value.items()}
        return kind(**{name: _rebuilt(hints[name], each) for name, each in named.items()})
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        kinds = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return tuple(_rebuilt(each, one) for each, one in zip(kinds, value, strict=True))
    if origin is dict:
        return {name: _rebuilt(parts[1], each) for name, each in value.items()}
    return value


def sha256_of(*parts: Any) -> str:
    """A hash of dataclasses and plain values."""
    plain = [dataclasses.asdict(part) if is_dataclass(part) and not isinstance(part, type) else part for part in parts]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()
