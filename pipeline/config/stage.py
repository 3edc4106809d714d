"""Settings of a stage of the curriculum: its samples, its batches, its optimization."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pipeline.config.tasks import SHARED_KINDS, TASK_NAMES
from pipeline.config.vocabulary import NORMALISATIONS
from tokenization.config.checks import below

LANGUAGES = ("en", "zh")


INSTRUCTIONS = {"en": "Describe the picture in English: ", "zh": "用中文描述这张图片："}
"""The captioning instruction in each language. It tells the model which language to answer in."""


ATTENTIONS = ("sdpa", "eager", "flex_attention")
"""transformers' names of the attention functions that training can use. FlexAttention needs a GPU."""


MAIN = "main"
"""The name of the corpus in a recipe that names none."""
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
"""Settings that may change between two attempts: how a stage runs, logs and saves. They change results by rounding
only."""
ADDED = ("z_loss", "ema_decay")
"""Settings that were added later: at their usual values they do not count for a resume, so that older runs go on."""
AT_LEAST_0 = (
    *("validate_every_steps", "sample_every_steps", "keep_every_steps", "compare_every_steps"),
    *("spike_factor", "roll_back_after", "checkpoint_every_layers", "z_loss"),
)


@dataclass(frozen=True)
class Source:
    """The rows of one corpus that a stage trains on.

    Attributes:
        weight: share of the stage's samples, relative to the other sources'.
        where: pandas query over the token table's plain columns and the side tables'; empty takes every row.
        held_out: another such query; its rows are used for validation and never for training; empty for none.
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
        purpose: a description of the stage's purpose.
        sources: its training data, by the corpus's name in the recipe. Rows of interleaved documents train as whole
            documents, independent of the tasks' shares.
        task_shares: share of the single pictures' samples, by task (`SHARED_KINDS`); they sum to 1.
        task_weights: weight of each task's mean loss, by default 1; also of `opener`, the opener after a caption; of
            `plain_text`, positions where no picture opens; and of `document_text`, an interleaved document's openers
            and its text after a picture. Each caption has one `opener` label, and a quarter of the captions have one
            `plain_text` label, at a random position. The ratio of these two weights sets the model's prior for openers
            in text. With interleaved documents, set `opener` to 0: they alone then teach where a picture opens.
        high_resolution_role: `high_1` or `high_2`: the pair of borders around a high-resolution picture.
        high_resolution_group: K of next-K-token prediction.
        text_to_image_noise: for each text-to-image sample a share between 0 and this is drawn; later positions see that
            share of its codes replaced with random ones. Most of a picture follows from its first codes. If these are
            unreliable, the model must learn more of the codes from the caption. Not in the paper.
        high_resolution_noise: the same for a high-resolution picture's codes. Generation sees its own mistakes: a model
            trained on true codes alone follows those codes instead of the text and the base picture.
        normalisation: the ids over which a label's probability sums to one: `state`, those that its state allows;
            `joint`, all ids.
        z_loss: weight of the square of the logarithm of the softmax's denominator, beside each label's cross-entropy.
            It keeps logits from drifting; 1e-5 to 1e-4 are common, 0 is none. Not in the paper.
        language_shares: share of the samples, by caption language. A picture without a caption in the drawn language
            uses another of its captions.
        guidance_dropout: share of text-to-image samples whose caption is dropped.
        caption_crop: share of the other samples whose caption begins at a random later id. So the model also learns the
            end of a caption without its beginning. Not in the paper.
        steps: optimizer steps.
        global_batch_size: samples per optimizer step, over all ranks.
        micro_batch_size: rows per rank in one forward pass.
        seq_len: maximum tokens of a packed row.
        row_multiple: the text of a micro-step's rows is padded to the longest, rounded up to a multiple of this, so
            that shapes repeat. The pictures are padded in the same way.
        learning_rate: peak, reached after `warmup_steps`, then a cosine to `final_learning_rate`.
        table_rate_factor: the visual embedding and head use this multiple of the learning rate. Each of their rows
            learns only from its own code, which is rare in a small corpus.
        weight_decay, adam_betas, gradient_clip: settings of AdamW.
        ema_decay: keep a moving average of the trained weights in float32, partitioned like AdamW's moments and saved
            with them; after each update it moves by 1 - `ema_decay` of the difference. 0 keeps none. Exports take it if
            they are asked to. Not in the paper.
        window_shards: shards whose rows are mixed by the shuffle.
        checkpoint_every_layers: recompute every n-th layer in the backward pass; 1: all layers, 0: none. The text
            prefix is never recomputed.
        attention: transformers' name of the attention function: `sdpa`; `eager`, which is faster on a CPU and holds all
            attention weights of a layer at once; `flex_attention`, which skips masked blocks and needs a GPU.
        compile_layers: fuse the layers' operations with `torch.compile`.
        spike_factor: a step is skipped if its loss exceeds this multiple of the median of the last 64 losses; 0 turns
            this off. A step with a loss that is not finite is always skipped.
        roll_back_after: number of consecutive skipped steps after which the weights return to the newest checkpoint; 0
            for never.
        end_after: number of consecutive skipped steps after which the run ends.
        step_timeout_s: if no step, validation or checkpoint ends within this many seconds, the attempt counts as hung:
            the workers' stacks go to the log, and the attempt is ended and retried. For the first step the time
            includes loading the model and compiling.
        compare_every_steps: steps between two comparisons of the values that must be equal on all ranks; 0 for none.
        log_every_steps, save_every_steps: steps between two log lines, and between two checkpoints.
        keep_checkpoints, keep_every_steps: number of latest checkpoints to keep; and checkpoints whose step is a
            multiple of `keep_every_steps` are kept, too (0: none of these).
        validate_every_steps: steps between two validations; 0 for none. If rows are held out, the last step always has
            one.
        validation_rows: maximum number of held-out rows used from each source.
        sample_every_steps: steps between two grids of pictures generated from `sample_prompts`; 0 for none.
        sample_prompts: prompts of these grids.
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
    z_loss: float = 0.0
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
    ema_decay: float = 0.0
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
        """True if the stage trains on pictures' high-resolution codes."""
        return any(share > 0 and SHARED_KINDS[task].traits.needs_high_codes for task, share in self.task_shares.items())

    def resume_settings(self) -> dict[str, Any]:
        """The settings that must be unchanged for a run to resume: all but the `OPERATIONAL` ones."""
        left_out = {one.name for one in fields(self) if one.name in ADDED and getattr(self, one.name) == one.default}
        return {name: value for name, value in asdict(self).items() if name not in {*OPERATIONAL, *left_out}}

    def problems(self) -> list[str]:
        """Returns the reasons why the stage is invalid; empty if it is valid."""
        found = self._share_problems()
        if not self.sources:
            found.append("sources is empty; name a corpus of the recipe")
        for name, source in self.sources.items():
            if not source.weight > 0:
                found.append(
                    f"sources.{name}.weight is {source.weight}, but must be above 0; leave the source out instead"
                )
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                found.append(f"{name} is {value!r}, but must be one of {', '.join(known)}")
        for name in ("guidance_dropout", "caption_crop", "text_to_image_noise", "high_resolution_noise"):
            if not 0 <= getattr(self, name) <= 1:
                found.append(f"{name} is {getattr(self, name)}, but must lie between 0 and 1")
        if not 0 <= self.ema_decay < 1:
            found.append(f"ema_decay is {self.ema_decay}, but must be at least 0 and below 1")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            rates = f"{self.learning_rate} and final_learning_rate {self.final_learning_rate}"
            found.append(f"learning_rate is {rates}; the final one must lie between 0 and the first")
        found += below(0, self, AT_LEAST_0)
        if self.sample_every_steps and not all(prompt.strip() for prompt in self.sample_prompts or ("",)):
            found.append(
                "sample_every_steps is set, but sample_prompts is empty or has an empty prompt; say what to draw"
            )
        if self.validate_every_steps and not any(source.held_out for source in self.sources.values()):
            found.append("validate_every_steps is set, but no source has rows held out; give one a held_out query")
        found += below(1, self, AT_LEAST_1)
        return found

    def _share_problems(self) -> list[str]:
        found = []
        for name in ("task_shares", "language_shares"):
            total = sum(getattr(self, name).values())
            if abs(total - 1) > 1e-6:
                found.append(f"{name} sum to {total:g}, but must sum to 1")
            if negative := {key: share for key, share in getattr(self, name).items() if share < 0}:
                found.append(f"{name} has {negative}; a share is at least 0")
        if unknown := set(self.task_weights) - set(TASK_NAMES):
            found.append(f"task_weights has unknown tasks {sorted(unknown)}; known: {', '.join(sorted(TASK_NAMES))}")
        if unknown := set(self.task_shares) - set(SHARED_KINDS):
            found.append(f"task_shares has unknown tasks {sorted(unknown)}; known: {', '.join(SHARED_KINDS)}")
        if unknown := set(self.language_shares) - set(INSTRUCTIONS):
            found.append(f"language_shares has unknown languages {sorted(unknown)}; known: {', '.join(INSTRUCTIONS)}")
        return found
