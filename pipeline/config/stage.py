"""What a stage of the curriculum is: its samples, its batches, its optimization."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.config.checks import at_least
from pipeline.config.tasks import SHARED_KINDS, TASK_NAMES
from pipeline.config.vocabulary import NORMALISATIONS

LANGUAGES = ("en", "zh")


INSTRUCTIONS = {"en": "Describe the picture in English: ", "zh": "用中文描述这张图片："}
"""The captioning instruction of each language: so the model knows in which to answer."""


ATTENTIONS = ("sdpa", "eager", "flex_attention")
"""transformers' names of the functions that training can run. FlexAttention needs a GPU."""


MAIN = "main"
"""The corpus of a recipe that names none."""
CHOICES = {
    "attention": ATTENTIONS,
    "normalisation": NORMALISATIONS,
    "high_resolution_role": ("high_1", "high_2"),
}
AT_LEAST_1 = (
    *("steps", "global_batch_size", "micro_batch_size", "seq_len", "row_multiple", "window_shards"),
    *("log_every_steps", "save_every_steps", "keep_checkpoints", "high_resolution_group", "validation_rows"),
    *("end_after", "step_timeout_s"),
)
OPERATIONAL = (
    *("purpose", "micro_batch_size", "row_multiple", "checkpoint_every_layers", "attention", "compile_layers"),
    *("spike_factor", "roll_back_after", "end_after", "compare_every_steps", "step_timeout_s"),
    *("log_every_steps", "save_every_steps", "keep_checkpoints", "keep_every_steps"),
    *("validate_every_steps", "validation_rows", "sample_every_steps", "sample_prompts"),
)
"""What may change between two attempts: how a stage is run, watched and saved. But for rounding it learns the same."""
AT_LEAST_0 = (
    *("validate_every_steps", "sample_every_steps", "keep_every_steps", "compare_every_steps"),
    *("spike_factor", "roll_back_after", "checkpoint_every_layers"),
)


@dataclass(frozen=True)
class Source:
    """The rows of one corpus that a stage trains on.

    Attributes:
        weight: share of the stage's samples, relative to the other sources'.
        where: pandas query over the token table's plain columns and the side tables'; empty takes every row.
        held_out: another such query: these rows are never trained on, and validation measures on them; empty for none.
        side_tables: parquet files with a column `sample_id` and more columns for `where`; or folders of such files with
            the token shards' own relative paths, which are read shard by shard.
    """

    weight: float = 1.0
    where: str = ""
    held_out: str = ""
    side_tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageConfig:
    """One stage.

    Attributes:
        purpose: what it is for, in words.
        sources: what it trains on, by the corpus's name in the recipe. Rows of interleaved documents train as whole
            documents, whatever the tasks' shares.
        task_shares: share of the single pictures' samples, by task (`SHARED_KINDS`); they sum to 1.
        task_weights: weight of each task's mean loss, 1 where none is given; also of `opener`, a caption's; of
            `plain_text`, where no picture opens; and of `document_text`, an interleaved document's openers and its text
            after a picture. A caption gives one label to `opener`, and a quarter of
            them, at a position drawn anew each time, one to `plain_text`: what the weights say of the two, openers take
            to be usual.
        high_resolution_role: `high_1` or `high_2`, whose borders a high-resolution picture gets.
        high_resolution_group: K of next-K-token prediction.
        text_to_image_noise: for each text-to-image sample a share between 0 and this is drawn, and so many of its
            codes are seen by later positions as random ones. Most of a picture follows from its first codes; where
            they cannot be relied on, more of them have to be learned from the caption. Ours.
        high_resolution_noise: the same of a high-resolution picture's codes. Generation meets its own mistakes: a model
            that only ever saw true codes follows them, and not the text and the base picture.
        normalisation: over what a label's probability sums to one: `state`, what may come there; `joint`, all ids.
        language_shares: share of the samples, by caption language; a picture without it takes one it has.
        guidance_dropout: share of text-to-image samples whose caption is dropped.
        caption_crop: share of the others whose caption begins at a random one of its later ids. What the end of a
            caption says is learned for itself, and not only together with the beginning. Ours.
        steps: optimizer steps.
        global_batch_size: samples an optimizer step, all ranks.
        micro_batch_size: rows a rank takes in one forward.
        seq_len: tokens of a packed row, at most.
        row_multiple: the text of a micro-step's rows is padded to the longest, rounded up to a multiple of this, so
            that shapes repeat; and so are the pictures.
        learning_rate: peak, reached after `warmup_steps`, then a cosine to `final_learning_rate`.
        table_rate_factor: the visual embedding and head learn at this multiple of the rate. A row of theirs learns
            only when its code comes, which in a small corpus is seldom.
        weight_decay, adam_betas, gradient_clip: of AdamW.
        window_shards: shards whose rows are mixed by the shuffle.
        checkpoint_every_layers: recompute every n-th layer in the backward pass, 1 all of them, 0 none. The text
            prefix is never recomputed.
        attention: transformers' name of the function that training runs: `sdpa`; `eager`, which is the faster one on
            a CPU and holds all weights of a layer's attention at once; `flex_attention`, which skips what the mask
            hides and needs a GPU.
        compile_layers: fuse the layers' operations with `torch.compile`; under ZeRO-3, those between matrix products.
        spike_factor: a step whose loss is above this multiple of the median of the last 64 is skipped; 0 for no such
            rule. One that is not finite is always skipped.
        roll_back_after: so many skipped steps in a row put the weights back to the newest checkpoint; 0 for never.
        end_after: so many end the run.
        step_timeout_s: seconds without a step's end, a validation's or a checkpoint's after which the attempt is taken
            to hang: the workers' stacks go to the log, and it is ended and tried again. The first step's include
            loading the model and compiling.
        compare_every_steps: between two comparisons of what must be equal on all ranks, 0 for none.
        log_every_steps, save_every_steps: between two log lines and two checkpoints.
        keep_checkpoints, keep_every_steps: the last so many checkpoints stay, and those whose step is a multiple of the
            latter, 0 for none of these.
        validate_every_steps: between two validations, 0 for none; the last step always has one where rows are held out.
        validation_rows: held-out rows of each source that are used, at most.
        sample_every_steps: between two grids of pictures drawn of `sample_prompts`, 0 for none.
        sample_prompts: the prompts.
    """

    purpose: str
    sources: dict[str, Source] = field(default_factory=lambda: {MAIN: Source()})
    task_shares: dict[str, float] = field(default_factory=lambda: {"text_to_image": 1.0})
    task_weights: dict[str, float] = field(default_factory=lambda: {"opener": 0.01, "plain_text": 0.1})
    high_resolution_role: str = "high_1"
    high_resolution_group: int = 1
    text_to_image_noise: float = 0.0
    high_resolution_noise: float = 0.0
    normalisation: str = "state"
    language_shares: dict[str, float] = field(default_factory=lambda: {"en": 0.5, "zh": 0.5})
    guidance_dropout: float = 0.1
    caption_crop: float = 0.0
    steps: int = 1000
    global_batch_size: int = 64
    micro_batch_size: int = 8
    seq_len: int = 512
    row_multiple: int = 64
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 50
    table_rate_factor: float = 1.0
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.95)
    gradient_clip: float = 1.0
    window_shards: int = 16
    checkpoint_every_layers: int = 0
    attention: str = "sdpa"
    compile_layers: bool = False
    spike_factor: float = 3.0
    roll_back_after: int = 8
    end_after: int = 16
    step_timeout_s: float = 1800.0
    compare_every_steps: int = 100
    log_every_steps: int = 10
    save_every_steps: int = 100
    keep_checkpoints: int = 2
    keep_every_steps: int = 0
    validate_every_steps: int = 0
    validation_rows: int = 256
    sample_every_steps: int = 0
    sample_prompts: tuple[str, ...] = ()

    @property
    def needs_high_codes(self) -> bool:
        """Whether it trains on pictures' high-resolution codes."""
        return any(share > 0 and SHARED_KINDS[task].traits.needs_high_codes for task, share in self.task_shares.items())

    def resume_settings(self) -> dict[str, Any]:
        """The settings that must be the same for a run to go on: all but the `OPERATIONAL` ones."""
        return {name: value for name, value in asdict(self).items() if name not in OPERATIONAL}

    def problems(self) -> list[str]:
        """What makes the stage impossible; empty where nothing does."""
        found = self._share_problems()
        if not self.sources:
            found.append("sources is empty; name a corpus of the recipe")
        for name, source in self.sources.items():
            if not source.weight > 0:
                found.append(
                    f"sources.{name}.weight is {source.weight}, it must be above 0; leave the source out instead"
                )
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                found.append(f"{name} is {value!r}, it must be one of {', '.join(known)}")
        for name in ("guidance_dropout", "caption_crop", "text_to_image_noise", "high_resolution_noise"):
            if not 0 <= getattr(self, name) <= 1:
                found.append(f"{name} is {getattr(self, name)}, it must lie between 0 and 1")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            rates = f"{self.learning_rate} and final_learning_rate {self.final_learning_rate}"
            found.append(f"learning_rate is {rates}; it must fall, to 0 at least")
        found += at_least(0, self, AT_LEAST_0)
        if self.sample_every_steps and not all(prompt.strip() for prompt in self.sample_prompts or ("",)):
            found.append("sample_every_steps is set, but sample_prompts has none or an empty one; say what to draw")
        if self.validate_every_steps and not any(source.held_out for source in self.sources.values()):
            found.append("validate_every_steps is set, but no source has rows held out; give one a held_out query")
        found += at_least(1, self, AT_LEAST_1)
        return found

    def _share_problems(self) -> list[str]:
        found = []
        for name in ("task_shares", "language_shares"):
            total = sum(getattr(self, name).values())
            if abs(total - 1) > 1e-6:
                found.append(f"{name} sum to {total:g}, they must sum to 1")
            if negative := {key: share for key, share in getattr(self, name).items() if share < 0}:
                found.append(f"{name} has {negative}; a share is at least 0")
        if unknown := set(self.task_weights) - set(TASK_NAMES):
            found.append(f"task_weights has unknown tasks {sorted(unknown)}; known: {', '.join(sorted(TASK_NAMES))}")
        if unknown := set(self.task_shares) - set(SHARED_KINDS):
            found.append(f"task_shares has unknown tasks {sorted(unknown)}; known: {', '.join(SHARED_KINDS)}")
        if unknown := set(self.language_shares) - set(INSTRUCTIONS):
            found.append(f"language_shares has {sorted(unknown)}; there are instructions for {', '.join(INSTRUCTIONS)}")
        return found
