"""Chooses the settings of a recipe that fits a corpus and a machine. All values are this project's own choice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config import (
    MAIN,
    OPEN_MUSE,
    PIXEL_SHUFFLE,
    CorpusConfig,
    EvaluationConfig,
    LanguageExpertConfig,
    PlanConfig,
    Recipe,
    ScalingConfig,
    Source,
    StageConfig,
    TokenizationConfig,
    VqganConfig,
    Workers,
    ZeroConfig,
)
from pipeline.config.gpus import memory_bytes
from pipeline.config.sample_limits import longest_sample
from pipeline.errors import UsageError
from pipeline.own_corpus.held_out import HeldOut
from pipeline.own_corpus.machine import Machine
from pipeline.own_corpus.survey import Survey
from pipeline.planning.recipe_plan import RecipePlan, plan_recipe

FACTOR = 16
"""Pixels a code along one side, of the VQ-GANs that the project knows."""
LEAST_CAPTION_IDS, MOST_CAPTION_IDS = 16, 256
CPU_EPOCHS, GPU_EPOCHS = 20, 10
"""Times that a picture is seen, unless the steps are the least. With 40, the held-out loss of 500 drawings was higher
(docs/your_corpus.md)."""
LEAST_STEPS = 20
"""Steps of a stage at least; a corpus of some dozens of rows is then seen more often."""
HIGH_PX = 512
LEAST_HIGH_SHARE = 0.3
"""A recipe for GPUs has the third stage if this share of the pictures is large enough for it."""
SAMPLE_PROMPTS = 4
LARGE_GPU_BYTES = 40e9
"""From this memory on a GPU trains beside a language expert of 1.5B parameters, below beside one of 0.5B."""


@dataclass(frozen=True)
class Wishes:
    """What the user named.

    Attributes:
        name: the recipe's name.
        hours: most hours of training.
        vqgan, language_expert: folders; empty for none.
    """

    name: str
    hours: float
    vqgan: str = ""
    language_expert: str = ""


@dataclass(frozen=True)
class CaptionIds:
    """Text ids of the captions that were looked at.

    Attributes:
        most: the maximum that a recipe sets, in steps of 16; longer captions are cut.
        mean: the captions' mean, after that.
        cut_share: share of the captions that are longer.
    """

    most: int
    mean: int
    cut_share: float

    @classmethod
    def of_lengths(cls, lengths: Sequence[int]) -> "CaptionIds":
        """The maximum is what one caption in twenty exceeds, or the most that a recipe sets."""
        usual_most = round(float(np.quantile(lengths, 0.95)))
        most = min(MOST_CAPTION_IDS, max(LEAST_CAPTION_IDS, _rounded(usual_most, 16)))
        mean = max(1, round(float(np.minimum(lengths, most).mean())))
        return cls(most, mean, float(np.mean(np.asarray(lengths) > most)))


def choose_recipe(
    survey: Survey, machine: Machine, ids: CaptionIds, held_out: HeldOut, prompts: tuple[str, ...], wishes: Wishes
) -> tuple[Recipe, RecipePlan]:
    """Returns the first recipe that fits the machine, with its plan.

    Args:
        survey, machine, ids, held_out, wishes: what the recipe is for.
        prompts: captions to draw pictures of while it trains.

    Raises:
        UsageError: none fits.
    """
    problem = UsageError("no recipe was tried")
    for recipe in _on_gpus(survey, machine, ids, wishes) if machine.gpus else [_on_cpus(survey, machine, ids, wishes)]:
        complete = _with_rows(recipe, survey, held_out, prompts)
        samples = (GPU_EPOCHS if machine.gpus else CPU_EPOCHS) * survey.usable_rows * (1 - held_out.share)
        try:
            sized, plan = _planned(complete, samples)
            if (hours := hours_of(plan, machine)) > wishes.hours:
                return _planned(complete, samples * wishes.hours / hours)
            return sized, plan
        except UsageError as error:
            problem = error
    raise problem


def hours_of(plan: RecipePlan, machine: Machine) -> float:
    """Planned hours of all stages: at the assumed MFU, or on CPU cores at `CPU_FLOP_PER_S`."""
    days = plan.device.days(plan.flop)
    return plan.flop / machine.cpu_flop_per_s / 3600 if days is None else 24 * days / machine.gpus


def _on_cpus(survey: Survey, machine: Machine, ids: CaptionIds, wishes: Wishes) -> Recipe:
    """The demo's geometry and rates, in one stage."""
    stage = StageConfig(
        purpose="pictures from captions, and captions from pictures",
        task_shares={"text_to_image": 0.7, "captioning": 0.3},
        task_weights={"opener": 0.002, "plain_text": 0.03},
        text_to_image_noise=1.0,
        global_batch_size=64,
        micro_batch_size=64,
        seq_len=max(256, _rounded(longest_sample((128 // FACTOR) ** 2, 0, ids.most), 64)),
        row_multiple=8,
        learning_rate=2e-3,
        final_learning_rate=1e-5,
        table_rate_factor=8.0,
        attention="eager",
        spike_factor=10.0,
    )
    workers = min(2, machine.cores)
    return Recipe(
        name=wishes.name,
        vqgan=PIXEL_SHUFFLE,
        vqgan_folder=wishes.vqgan,
        language_expert_folder=wishes.language_expert,
        text_tokenizer=wishes.language_expert or "dashscope",
        tokenization=TokenizationConfig(size_px=128, max_caption_ids=ids.most, encoder_dtype=machine.dtype),
        language_expert=LanguageExpertConfig(seq_len=128 if ids.most <= 32 else 256),
        embedding_noise_std=0.05,
        picture_position_std=0.05,
        stages=(stage,),
        scaling=ScalingConfig(num_workers=workers, cpus_per_worker=machine.cores // workers),
        tokenizers=Workers(num_encoders=machine.cores),
        evaluation=EvaluationConfig(temperature=0.5, guidance_scale=3.0, max_caption_ids=ids.most),
        zero=ZeroConfig(dtype=machine.dtype, frozen_whole=True),
        plan=PlanConfig(mean_caption_ids=ids.mean, pictures=survey.usable_rows),
        heartbeat_s=10.0,
    )


def _on_gpus(survey: Survey, machine: Machine, ids: CaptionIds, wishes: Wishes) -> Iterator[Recipe]:
    """Recipes of three stages as `mars_1b`'s, from the fastest one to the one that takes the least memory."""
    large = (memory_bytes(machine.gpu) or 0) >= LARGE_GPU_BYTES
    expert = ("models/qwen2-1.5b", "qwen2_1_5b") if large else ("models/qwen2-0.5b", "qwen2_0_5b")
    folder, geometry = (wishes.language_expert, "") if wishes.language_expert else expert
    high = survey.share_at_least(HIGH_PX) >= LEAST_HIGH_SHARE
    for micro_batch_size, recomputed in ((4, 0), (4, 1), (2, 1), (1, 1)):
        first = StageConfig(
            purpose="align image and text in both directions",
            task_shares={"text_to_image": 0.6, "captioning": 0.4},
            global_batch_size=128 * min(8, max(2, machine.gpus)),
            micro_batch_size=micro_batch_size,
            seq_len=4096,
            learning_rate=2e-4,
            checkpoint_every_layers=recomputed,
            attention="flex_attention",
            compile_layers=True,
        )
        stages = [first, _refined(first)]
        if high:
            stages.append(_detailed(stages[-1]))
        yield Recipe(
            name=wishes.name,
            vqgan=VqganConfig() if wishes.vqgan else OPEN_MUSE,
            vqgan_folder=wishes.vqgan or "models/vqgan-f16-8192-laion",
            text_tokenizer=folder,
            language_expert_folder=folder,
            tokenization=TokenizationConfig(
                size_px=256,
                size_hr_px=HIGH_PX if high else 0,
                hr_where=f"width >= {HIGH_PX} and height >= {HIGH_PX}" if high else "",
                max_caption_ids=ids.most,
                encoder_dtype="bfloat16",
            ),
            stages=tuple(stages),
            scaling=ScalingConfig(
                num_workers=machine.gpus, use_gpu=True, cpus_per_worker=max(1, machine.cores // machine.gpus - 1)
            ),
            tokenizers=Workers(num_encoders=machine.gpus, use_gpu=True),
            evaluation=EvaluationConfig(temperature=1.0, guidance_scale=4.0, max_caption_ids=ids.most),
            zero=ZeroConfig(zero_stage=2),
            plan=PlanConfig(
                gpu=machine.gpu,
                language_expert_geometry=geometry,
                mean_caption_ids=ids.mean,
                pictures=survey.usable_rows,
                pictures_hr=round(survey.usable_rows * survey.share_at_least(HIGH_PX)) if high else 0,
            ),
        )


def _refined(stage: StageConfig) -> StageConfig:
    shares = {"text_to_image": 0.9, "captioning": 0.1}
    return replace(stage, purpose="refine text to image", task_shares=shares, learning_rate=1e-4)


def _detailed(stage: StageConfig) -> StageConfig:
    return replace(
        stage,
        purpose="detail: high-resolution codes from text and low-resolution codes",
        task_shares={"text_to_image": 0.2, "high_resolution": 0.8},
        high_resolution_group=8,
    )


STAGE_SHARES = {1: (1.0,), 2: (0.75, 0.25), 3: (0.7, 0.2, 0.1)}
"""Shares of the samples that the stages take, by the number of stages."""


def _with_rows(recipe: Recipe, survey: Survey, held_out: HeldOut, prompts: tuple[str, ...]) -> Recipe:
    """The recipe with the corpus, its languages, and the rows of each stage."""
    languages = sorted(survey.texts)
    source = survey.source
    stages = tuple(
        replace(
            stage,
            sources={MAIN: _source(recipe, stage, held_out)},
            language_shares={language: 1 / len(languages) for language in languages},
            sample_prompts=prompts,
        )
        for stage in recipe.stages
    )
    columns = {column.name: column.language for column in survey.columns}
    expert = replace(recipe.language_expert, where=f"not {held_out.query}")
    return replace(
        recipe,
        corpora={MAIN: CorpusConfig(path=source.url, layout=source.layout)},
        tokenization=replace(recipe.tokenization, caption_columns=columns),
        language_expert=recipe.language_expert if recipe.language_expert_folder else expert,
        stages=stages,
    )


def _source(recipe: Recipe, stage: StageConfig, held_out: HeldOut) -> Source:
    high = recipe.tokenization.hr_where if stage.needs_high_codes else ""
    return Source(where=high, held_out=f"{high} and {held_out.query}" if high else held_out.query)


def _planned(recipe: Recipe, samples: float) -> tuple[Recipe, RecipePlan]:
    """The recipe with the steps for so many samples of all stages together, and its plan."""
    stages = []
    for stage, share in zip(recipe.stages, STAGE_SHARES[len(recipe.stages)], strict=True):
        steps = max(LEAST_STEPS, round(share * samples / stage.global_batch_size))
        every = max(1, steps // 5)
        stages.append(
            replace(
                stage,
                steps=steps,
                warmup_steps=max(1, min(2000, steps // 10)),
                save_every_steps=min(500, max(10, steps // 10)),
                validate_every_steps=every,
                sample_every_steps=every,
            )
        )
    sized = replace(recipe, stages=tuple(stages))
    return sized, plan_recipe(sized, list(range(1, len(stages) + 1)))


def _rounded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
