"""The plan of a recipe, from the recipe alone: batches, memory, work, GPU-days, and the reasons why it is invalid."""

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config.gpus import ASSUMED_MFU, GPU_TYPES, memory_bytes, peak_flop_per_s
from pipeline.config.model_sizes import LANGUAGE_EXPERT_POSITIONS, SIZES, Geometry
from pipeline.config.recipe import Recipe
from pipeline.config.sample_limits import positions_problem, seq_len_problem
from pipeline.config.stage import StageConfig
from pipeline.config.tasks import Kind
from pipeline.config.units import SECONDS_PER_DAY
from pipeline.errors import UsageError
from pipeline.planning.flops import ParameterCounts, count_parameters
from pipeline.planning.memory import MemoryPlan, RowShape, memory_plan
from pipeline.planning.work import SampleLengths, StageWork, stage_work

QWEN2_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SAME = ("text_vocab_size", *QWEN2_SIZES, "head_size", "query_key_norm", "tie_word_embeddings")


@dataclass(frozen=True)
class Device:
    """The device that a run is planned on. Peak and memory are None for CPUs.

    Attributes:
        name: the GPU's model, or `CPU`.
        peak_flop_per_s, memory_bytes: peak and memory of one device.
        mfu: the assumed share of the peak.
    """

    name: str
    peak_flop_per_s: float | None
    memory_bytes: int | None
    mfu: float

    def days(self, flop: float) -> float | None:
        return flop / (self.peak_flop_per_s * self.mfu * SECONDS_PER_DAY) if self.peak_flop_per_s else None


@dataclass(frozen=True)
class PlannedStage:
    """One stage's plan. `gpu_days` is None on CPUs; `budget_gpu_days` is 0 if there is no budget."""

    number: int
    stage: StageConfig
    work: StageWork
    memory: MemoryPlan
    gpu_days: float | None
    budget_gpu_days: float


@dataclass(frozen=True)
class RecipePlan:
    """The plan of a recipe."""

    recipe: Recipe
    config: Geometry
    counts: ParameterCounts
    lengths: SampleLengths
    device: Device
    stages: tuple[PlannedStage, ...]

    @property
    def flop(self) -> float:
        return sum(stage.work.flop for stage in self.stages)


def plan_recipe(recipe: Recipe, numbers: list[int], gpu: str = "", mfu: float = ASSUMED_MFU) -> RecipePlan:
    """Plans stages by their numbers.

    Args:
        recipe: the recipe, with overrides applied.
        numbers: stage numbers, from 1.
        gpu: GPU model to plan on instead of the recipe's.
        mfu: assumed share of the peak.

    Raises:
        UsageError: the recipe is invalid; the message has every reason that was found.
    """
    device = planned_device(recipe, gpu, mfu)
    config, lengths = planned_config(recipe), sample_lengths(recipe)
    counts = count_parameters(config)
    budgets = recipe.plan.budget_gpu_days
    stages: list[PlannedStage] = []
    problems: list[str] = []
    if len(budgets) > len(recipe.stages):
        problems.append(f"plan.budget_gpu_days has {len(budgets)} values for {len(recipe.stages)} stages")
    for number in numbers:
        stage, world_size = recipe.stages[number - 1], recipe.scaling.num_workers
        found = sample_problems(recipe, stage, config, lengths)
        if not found:
            work = stage_work(config, stage, lengths, world_size, recipe.plan.documents)
            memory = memory_plan(
                config, counts, stage, recipe.zero, world_size, row_shapes(stage, work), recipe.scaling.use_gpu
            )
            budget = budgets[number - 1] if number <= len(budgets) else 0.0
            planned = PlannedStage(number, stage, work, memory, device.days(work.flop), budget)
            found = plan_problems(planned, device, world_size)
            stages.append(planned)
        problems += [f"stage {number}: {problem}" for problem in found]
    if problems:
        raise UsageError(f"recipe {recipe.name!r} cannot work: " + "; ".join(problems))
    return RecipePlan(recipe, config, counts, lengths, device, tuple(stages))


def planned_device(recipe: Recipe, gpu: str, mfu: float) -> Device:
    """The device that the run is planned on.

    Raises:
        UsageError: no GPU is set, the GPU is unknown, or the MFU is not a share.
    """
    if not 0 < mfu <= 1:
        raise UsageError(f"--mfu is {mfu:g}, but must be a share of the peak, above 0 and at most 1")
    if not recipe.scaling.use_gpu:
        if gpu:
            raise UsageError(f"--gpu {gpu}: recipe {recipe.name!r} trains on CPUs; add --set scaling.use_gpu=true")
        return Device("CPU", None, None, mfu)
    name = gpu or recipe.plan.gpu
    known = ", ".join(name for gpu in GPU_TYPES if gpu.peak_flop_per_s for name in gpu.full_names)
    if not name:
        raise UsageError(f"recipe {recipe.name!r} trains on GPUs and names no model; name one with --gpu: {known}")
    peak, memory = peak_flop_per_s(name), memory_bytes(name)
    if peak is None or memory is None:
        raise UsageError(f"GPU {name!r} is unknown, or its name does not say its memory; name one of {known}")
    return Device(name, peak, memory, mfu)


def planned_config(recipe: Recipe) -> Geometry:
    """The sizes of the recipe's model.

    Raises:
        UsageError: the language expert's geometry is unknown, or differs from the folder's.
    """
    name, folder = recipe.plan.language_expert_geometry, recipe.language_expert_folder
    known = ", ".join(SIZES)
    if name and name not in SIZES:
        raise UsageError(f"plan.language_expert_geometry is {name!r}, but must be one of {known}")
    location = Path(folder).parent if folder and Path(folder).is_file() else Path(folder)
    if folder and (location / "config.json").exists():
        base = geometry_of(location)
        for key in SAME if name else ():
            has, stated = getattr(base, key), getattr(SIZES[name], key)
            if has != stated:
                raise UsageError(
                    f"language expert {folder!r} has {key} {has}, geometry {name!r} {stated}; set "
                    "plan.language_expert_geometry"
                )
    elif name:
        base = SIZES[name]
    elif folder:
        raise UsageError(
            f"language expert {folder!r} is not on this machine, and the recipe does not state its geometry; set "
            f"plan.language_expert_geometry to one of {known}"
        )
    else:
        own = recipe.language_expert
        base = Geometry(
            hidden_size=own.hidden_size,
            intermediate_size=own.intermediate_size,
            num_hidden_layers=own.num_hidden_layers,
            num_attention_heads=own.num_attention_heads,
            num_key_value_heads=own.num_key_value_heads,
            max_position_embeddings=LANGUAGE_EXPERT_POSITIONS,
            tie_word_embeddings=True,
            text_vocab_size=own.vocab_size,
        )
    return replace(
        base,
        codebook_size=recipe.vqgan.codebook_size,
        shared_output_projection=recipe.shared_output_projection,
        visual_query_key_norm=recipe.visual_query_key_norm,
    )


def geometry_of(folder: Path) -> Geometry:
    """The sizes of the language expert in a folder.

    Raises:
        InputError: see `language_expert_config`.
    """
    from pipeline.weights.language_expert_formats import language_expert_config  # imports transformers

    base = language_expert_config(folder)
    names = (*QWEN2_SIZES, "max_position_embeddings", "tie_word_embeddings")
    sizes = {name: getattr(base, name) for name in names}
    if is_qwen3 := base.model_type == "qwen3":
        sizes |= {"head_dim": base.head_dim}
    return Geometry(**sizes, text_vocab_size=base.vocab_size, qkv_bias=not is_qwen3, query_key_norm=is_qwen3)


def sample_lengths(recipe: Recipe) -> SampleLengths:
    """The lengths that the recipe's tokenization will give.

    Raises:
        UsageError: a size is no multiple of the VQ-GAN's factor, or the mean caption is longer than the maximum.
    """
    tokenization, factor = recipe.tokenization, recipe.vqgan.factor
    for name in ("size_px", "size_hr_px"):
        if (size := getattr(tokenization, name)) % factor:
            raise UsageError(f"tokenization.{name} is {size}, but must be a multiple of the VQ-GAN's factor, {factor}")
    mean, most = recipe.plan.mean_caption_ids, tokenization.max_caption_ids
    if not 0 < mean <= most:
        raise UsageError(f"plan.mean_caption_ids is {mean}; it must lie between 1 and max_caption_ids {most}")
    low, high = (tokenization.size_px // factor) ** 2, (tokenization.size_hr_px // factor) ** 2
    return SampleLengths(low, high, mean, most)


def row_shapes(stage: StageConfig, work: StageWork) -> list[RowShape]:
    """A rank's largest micro-step: the fullest rows of every kind."""
    shapes = []
    for kind in work.kinds:
        rows = min(stage.micro_batch_size, kind.rows_per_rank)
        shapes.append(
            RowShape(kind.kind, rows, kind.row_text_length, kind.row_visual_length, labels=rows * kind.row_labels)
        )
    return shapes


def sample_problems(recipe: Recipe, stage: StageConfig, config: Geometry, lengths: SampleLengths) -> list[str]:
    """Returns the reasons why samples of the stage cannot be made or do not fit into a row."""
    found = []
    wants_high = stage.needs_high_codes
    group_size, high_px = stage.high_resolution_group, recipe.tokenization.size_hr_px
    if wants_high and not high_px:
        found.append(
            "task high_resolution has a share, but tokenization.size_hr_px is 0: tokens will have no high-resolution "
            "codes; set it, or the share to 0"
        )
    if wants_high and lengths.num_high_codes % group_size:
        found.append(
            f"high_resolution_group {group_size} does not divide the {lengths.num_high_codes} codes of {high_px} px; "
            "choose a divisor"
        )
    for name in stage.sources:
        if recipe.corpora[name].has_documents and name not in recipe.plan.documents:
            found.append(
                f"corpus {name!r} consists of documents; say how many pictures and text ids one has on average, as in "
                f"--set plan.documents.{name}='(3, 32)'"
            )
    num_high_codes = lengths.num_high_codes if wants_high else 0
    has_documents = any(recipe.corpora[name].has_documents for name in stage.sources)
    longest = lengths.longest(wants_high)
    limits = (
        seq_len_problem(stage, lengths.num_codes, num_high_codes, lengths.max_caption_ids),
        positions_problem(stage, longest, has_documents, config.max_position_embeddings),
    )
    found += [problem for problem in limits if problem]
    return found


def plan_problems(planned: PlannedStage, device: Device, world_size: int) -> list[str]:
    """Returns the reasons why the plan does not suit the ranks, the GPU, or the budget.

    Samples are packed into a multiple of `world_size` rows, so `global_batch_size` need not be such a multiple. But a
    kind with fewer samples than ranks leaves rows empty in every step, and their ranks only compute fillers.
    """
    found = []
    size = planned.stage.global_batch_size
    for kind in planned.work.kinds:
        # Documents have no task share: they may be rare, and need not be in every step.
        if kind.samples < world_size and kind.kind is not Kind.INTERLEAVED:
            enough = -(-size * world_size // kind.samples)
            found.append(
                f"global_batch_size {size} does not suit {world_size} ranks: {kind.kind.name.lower()} gets "
                f"{kind.samples:g} samples a step, so some ranks would have none; raise it to {enough:.0f} or more, "
                "or the task's share, or lower scaling.num_workers"
            )
    memory, has = planned.memory, device.memory_bytes
    if has is not None and memory.start + memory.runtime > has:
        found.append(
            f"the whole model takes {memory.start / 1e9:.1f} GB of a GPU before DeepSpeed partitions it, and "
            f"{memory.runtime / 1e9:.0f} GB are assumed for CUDA; {device.name} has {has / 1e9:.0f} GB; name a GPU "
            "with more, or a smaller language expert"
        )
    elif has is not None and memory.peak > has:
        components = memory.by_component()
        largest = max(components.keys() - {"start"}, key=lambda name: components[name])
        found.append(
            f"needs {memory.peak / 1e9:.1f} GB a GPU, {device.name} has {has / 1e9:.0f} GB; the most is {largest}, "
            f"{components[largest] / 1e9:.1f} GB; lower micro_batch_size, set checkpoint_every_layers to 1, "
            "zero.zero_stage to 3, or raise scaling.num_workers"
        )
    if planned.gpu_days is not None and 0 < planned.budget_gpu_days < planned.gpu_days:
        found.append(
            f"is planned at {planned.gpu_days:.1f} GPU-days of {device.name} (MFU {device.mfu:g}, assumed), its budget "
            f"is {planned.budget_gpu_days:g}; lower steps or raise plan.budget_gpu_days"
        )
    return found
