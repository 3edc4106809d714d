"""Recipes: the complete settings of a run."""

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from pipeline.config.evaluation import EvaluationConfig
from pipeline.config.language_expert import LanguageExpertConfig
from pipeline.config.model import ModelOptions
from pipeline.config.patience import patience_problems
from pipeline.config.scaling import ScalingConfig
from pipeline.config.shares import no_room
from pipeline.config.stage import LANGUAGES, MAIN, StageConfig
from pipeline.config.zero import ZeroConfig
from pipeline.errors import InputError
from tokenization.config.checks import below
from tokenization.config.sources import CORPUS_FORMATS
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.vqgan import WEIGHTS, VqganConfig
from tokenization.config.workers import Workers

TRACKERS = {"wandb": "wandb", "mlflow": "mlflow"}
"""Tracker names that a recipe may use, and the packages that they need."""

MADE = ("drawings", "lists")
"""Corpora that `pipeline.demo.corpora` makes."""


@dataclass(frozen=True)
class CorpusConfig:
    """A corpus.

    Attributes:
        path: folder or prefix of a bucket; empty for a corpus that `jobs/make_corpus.py` makes.
        tokens: folder or prefix of a bucket of its tokens; empty for the run's own folder.
        made: the corpus that `jobs/make_corpus.py` makes, one of `MADE`.
        high_resolution: its pictures are also encoded at the high resolution, if tokenization has one.
        layout, image_column, folder_shard_rows: see `CorpusSource`.
        size_px, shard_rows: side of a picture in px, and pictures per shard, if the run makes the corpus.
        groups, lists_per_group, pictures_per_list: settings of `lists`, see `tokenization.demo.lists`.
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
        """True if its samples are interleaved documents."""
        return self.made == "lists" or self.layout == "documents"


@dataclass(frozen=True)
class PlanConfig:
    """Assumptions of a dry run about inputs that do not exist yet.

    Attributes:
        gpu: model of the GPU that the run is planned on, as in `A100-80GB`; empty if the recipe does not set one.
        language_expert_geometry: geometry of the language expert in `language_expert_folder`, a name in `GEOMETRIES`;
            empty to read it from the folder.
        mean_caption_ids: mean ids of a caption.
        documents: mean pictures and mean text ids of a document, by corpus of interleaved documents.
        budget_gpu_days: budget of each stage, in days of that GPU, which a plan must not exceed; 0 or left out: none.
        pictures, pictures_hr: pictures to tokenize, and how many of them also at the high resolution. 0: as many as the
            stage with the most samples has, and as many as the stage with the high-resolution task has.
        gpu_days_beside: published A100 GPU-days of other models, by model, shown next to the plan's.
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
    """The complete settings of a run.

    Attributes:
        name: also the run's folder under the root.
        corpora: the corpora by name. The first one's shards and tokens are in the run's `corpus` and `tokens`, those of
            the others under `corpora/NAME`.
        vqgan, tokenization: settings for turning the corpora into tokens.
        vqgan_folder: a VQ-GAN, see `tokenization.vqgan.formats`; empty for the one shipped with the project.
        vqgan_weights: `ema` or `plain`, of a VQ-GAN's checkpoint that has both; empty for its own choice.
        text_tokenizer: see `tokenization.text_tokenizer.load_text_tokenizer`.
        language_expert_folder: Qwen-7B, Qwen1.5, Qwen2, Qwen2.5 or Qwen3, or a starting model of `jobs/init_model.py`;
            a hub name only for that job. Empty to train the small one of `language_expert`.
        shared_output_projection, embedding_noise_std, picture_position_std, visual_query_key_norm: see `ModelOptions`.
        stages: the curriculum.
        scaling, tokenizers, zero: workers of training and of tokenization, partitioning.
        checkpoint_folder: folder or prefix of a bucket for the stages' checkpoints; empty for the run's own folder.
        ledger_folder: folder or prefix of a bucket for the ledger, which gets a folder with the recipe's name there.
        trackers: `wandb`, `mlflow` or both: trackers in addition to TensorBoard.
        plan: assumptions and comparisons of a dry run.
        heartbeat_s: seconds between two ledger rows.
        outage_s: seconds that jobs and workers wait for a bucket that does not answer; `step_timeout_s` must be longer.
        seed: seed of the sample order and of all random draws.
    """

    name: str
    corpora: dict[str, CorpusConfig] = field(default_factory=lambda: {MAIN: CorpusConfig()})
    vqgan: VqganConfig = VqganConfig()
    vqgan_folder: str = ""
    vqgan_weights: str = ""
    text_tokenizer: str = "dashscope"
    tokenization: TokenizationConfig = TokenizationConfig()
    language_expert: LanguageExpertConfig = LanguageExpertConfig()
    language_expert_folder: str = ""
    shared_output_projection: bool = False
    embedding_noise_std: float = 0.0
    picture_position_std: float = 0.0
    visual_query_key_norm: bool = False
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
    outage_s: float = 1200.0
    seed: int = 0

    @property
    def first_corpus(self) -> str:
        """The name of the corpus in the run's `corpus` and `tokens` folders."""
        return next(iter(self.corpora))

    @property
    def corpus(self) -> CorpusConfig:
        return self.corpora[self.first_corpus]

    @property
    def model_options(self) -> ModelOptions:
        """The recipe's model options."""
        return ModelOptions(**{one.name: getattr(self, one.name) for one in fields(ModelOptions)})

    def problems(self) -> list[str]:
        """Returns the reasons why the recipe is invalid; empty if it is valid."""
        found = []
        if not self.corpora:
            found.append(f"recipe {self.name!r} has no corpus")
        for name, lengths in self.plan.documents.items():
            if len(lengths) != 2 or not all(isinstance(one, int) and one > 0 for one in lengths):
                found.append(f"plan.documents.{name} is {lengths!r}, but must be two whole numbers above 0")
        found += [f"vqgan.{problem}" for problem in self.vqgan.problems()]
        if self.vqgan_weights not in WEIGHTS:
            found.append(
                f"vqgan_weights is {self.vqgan_weights!r}, but must be one of {', '.join(WEIGHTS[1:])}, or empty"
            )
        found += self.model_options.problems()
        for name in self.trackers:
            if name not in TRACKERS:
                found.append(f"trackers has {name!r}, which is unknown; the trackers are {', '.join(TRACKERS)}")
        found += self._corpus_problems()
        found += [f"tokenization.{problem}" for problem in self.tokenization.problems()]
        for key, settings, names in (
            ("vqgan", self.vqgan, ("image_size_px", "layers_per_block", "latent_channels", "codebook_size", "steps")),
            ("vqgan", self.vqgan, ("global_batch_size", "norm_num_groups")),
            ("language_expert", self.language_expert, ("hidden_size", "intermediate_size", "num_hidden_layers")),
            ("language_expert", self.language_expert, ("num_attention_heads", "vocab_size", "batch_size", "seq_len")),
            ("evaluation", self.evaluation, ("batch_size", "max_caption_ids")),
        ):
            found += [f"{key}.{problem}" for problem in below(1, settings, names)]
        for column, language in self.tokenization.caption_columns.items():
            if language not in LANGUAGES:
                known = ", ".join(LANGUAGES)
                found.append(
                    f"captions of {column!r} are in {language!r}, which no stage knows; the languages are {known}"
                )
        found += [f"tokenizers.{problem}" for problem in self.tokenizers.problems()]
        if self.evaluation.documents and self.evaluation.documents not in self.corpora:
            known = ", ".join(self.corpora)
            found.append(
                f"evaluation.documents is {self.evaluation.documents!r}, but must be one of the corpora {known}"
            )
        found += [f"scaling.{problem}" for problem in self.scaling.problems()]
        found += below(0, self, ("outage_s",))
        return found + self._stage_problems()

    def _corpus_problems(self) -> list[str]:
        found = []
        for name, corpus in self.corpora.items():
            if corpus.made not in MADE:
                found.append(f"corpora.{name}.made is {corpus.made!r}, but must be one of {', '.join(MADE)}")
            problems = below(1, corpus, ("folder_shard_rows", "size_px", "shard_rows"))
            if corpus.layout and corpus.layout not in CORPUS_FORMATS:
                problems.append(f"layout is {corpus.layout!r}, but must be one of {', '.join(CORPUS_FORMATS)}")
            found += [f"corpora.{name}.{problem}" for problem in problems]
        written = [corpus.tokens for corpus in self.corpora.values() if corpus.tokens]
        for tokens in dict.fromkeys(tokens for tokens in written if written.count(tokens) > 1):
            found.append(f"several corpora have the tokens {tokens!r}; give each a folder of its own")
        return found

    def _stage_problems(self) -> list[str]:
        found = []
        for number, stage in enumerate(self.stages, start=1):
            problems = stage.problems()
            if stage.attention == "flex_attention" and not self.scaling.use_gpu:
                problems.append("attention 'flex_attention' trains on GPUs only; set sdpa or eager")
            if stage.compile_layers and self.zero.zero_stage == 3 and not self.zero.whole_layers:
                problems.append(
                    "compile_layers under ZeRO-3 needs zero.whole_layers=true; set it, or zero.zero_stage=2"
                )
            for name in stage.sources.keys() - self.corpora.keys():
                problems.append(f"sources has {name!r}, which is unknown; the corpora are {', '.join(self.corpora)}")
            if not problems and (
                problem := no_room([s.weight for s in stage.sources.values()], stage.global_batch_size)
            ):
                problems.append(problem)
            tokens = [self.corpora[name].tokens for name in stage.sources if name in self.corpora]
            problems += patience_problems(stage, self.outage_s, [*tokens, self.checkpoint_folder])
            if problems:
                found.append(f"stage {number} of recipe {self.name!r}: {'; '.join(problems)}")
        return found


RENAMED = {"drawings_per_list": "pictures_per_list", "grid_drawings": "grid_pictures"}
"""Settings that version 0.1.0 wrote into `recipe.json` under other names."""


def recipe_of(values: dict[str, Any]) -> Recipe:
    """Rebuilds the recipe that a stage stored in its `recipe.json`.

    Raises:
        InputError: it was written by a version of the project whose recipes have other fields.
    """
    try:
        recipe: Recipe = _rebuilt(Recipe, values)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"recipe.json is of another version of the project: {error}") from error
    return recipe


def _rebuilt(kind: Any, value: Any) -> Any:
    """Converts JSON values to a type: nested dataclasses, tuples and dicts."""
    if is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        named = {RENAMED.get(name, name): each for name, each in value.items()}
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
