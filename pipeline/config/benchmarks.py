"""Settings of the benchmarks."""

from dataclasses import dataclass
from typing import Literal

from pipeline.config.gpus import ASSUMED_MFU


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the benchmark of a training step and of the whole loop."""

    geometry: Literal["auto", "qwen_7b", "small"] = "auto"
    """Model size. auto: qwen_7b on a GPU, with as many layers as fit; small on a CPU."""
    layers: int = 0
    """Layers instead of the geometry's, or of as many as fit. 0: not given."""
    rows: int = 0
    """Packed rows of the micro-batch. 0: 1 on a GPU, 4 on a CPU."""
    samples_per_row: int = 0
    """Samples of 77 text ids and 256 codes in a row. 0: 12 on a GPU, 1 on a CPU."""
    rounds: int = 9
    """Rounds in which every variant runs one step."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 on a GPU, float32 on a CPU."""
    attention: Literal["auto", "sdpa", "eager", "flex_attention"] = "auto"
    """auto: flex_attention on a GPU, eager on a CPU."""
    compile: Literal["auto", "yes", "no"] = "auto"
    """torch.compile the layers of all variants. auto: on a GPU."""
    loop_steps: int = 18
    """Steps of each run of the loop, with and without Ray; the first third does not count. 0 leaves the loop out."""
    loop_runs: int = 3
    """Runs of the loop with and without Ray that count, alternating, after one of each that does not."""


@dataclass(frozen=True)
class GenerateSettings:
    """Settings of the benchmark of picture generation."""

    geometry: Literal["auto", "qwen_7b", "small"] = "auto"
    """Model size. auto: qwen_7b on a GPU, small on a CPU."""
    layers: int = 0
    """Layers instead of the geometry's. 0: not given."""
    batch_size: int = 0
    """Pictures drawn at once. 0: 16 on a GPU, 1 on a CPU."""
    num_codes: int = 256
    """Codes of a picture."""
    group_size: int = 4
    """K of next-K-token prediction."""
    rounds: int = 3
    """Rounds in which every variant draws a batch, after one that does not count."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16 on a GPU, float32 on a CPU."""


@dataclass(frozen=True)
class SpeculateSettings:
    """Settings of the benchmark of speculative decoding."""

    batch_size: int = 1
    """Pictures drawn at once."""
    num_drafts: tuple[int, ...] = (3, 7, 11, 15)
    """Codes that are drafted for each pass, one number after the other."""
    rounds: int = 10
    """Rounds, in each of which plain decoding and every number of drafts draw the same pictures in turn, after one that
    does not count; medians count."""
    temperature: float | None = None
    """Temperature of the sampling instead of the recipe's."""


@dataclass(frozen=True)
class ServeSettings:
    """Settings of the benchmark of a server."""

    batch_size: int = 8
    """Pictures that `generate` and the server draw at once; also the clients of the first measurement."""
    batches: int = 8
    """Batches of `generate` that are timed, and as many pictures of each client, after one that does not count."""
    lone_requests: int = 8
    """Requests that are alone, one after the other; the median counts."""
    clients: int = 200
    """Clients of the last measurement, at once."""
    requests: int = 2000
    """Their requests. A twentieth is hung up, a hundredth each is wrong or too large, and a replica is killed."""
    port: int = 8971
    """Port on the loopback address."""


@dataclass(frozen=True)
class TokenizeSettings:
    """Settings of the benchmark of tokenization on a corpus of noise."""

    geometry: Literal["auto", "open_muse", "demo"] = "auto"
    """VQ-GAN. auto: open-muse's size with random weights on a GPU, the demo's on a CPU."""
    rows: int = 4000
    """Pictures of the corpus."""
    source_px: int = 384
    """Shorter side of its JPEGs, px; the longer side is up to 1.5 times as long."""
    resolution: int = 256
    """Side of the square that is encoded, px."""
    encode_batch_size: int = 32
    """Pictures that are encoded at once."""
    naive_rows: int = 200
    """Pictures for the loop that encodes one picture at a time."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """auto: bfloat16, as in the demo and in mars_7b."""
    null_encoder: bool = False
    """Measure instead what is no work of readers and encoders, by the CPU time of all processes: encoders answer at
    once, and readers make black pictures. A Ray of its own is started."""
    null_encoders: tuple[int, ...] = (1, 4, 16, 64)
    """With --null-encoder: numbers of simulated encoders, one after the other. Each takes a process."""
    null_readers: int = 0
    """With --null-encoder: readers. 0: as many as CPUs."""
    null_picture_px: int = 64
    """With --null-encoder: side of the black pictures, which stand for those of --resolution: a block has as many of
    them. At the resolution itself, memory's speed limits two cores to few pictures a second."""
    null_rows: int = 100_000
    """With --null-encoder: pictures for each number of encoders."""
    null_shard_rows: int = 10_000
    """With --null-encoder: pictures of a shard; img2dataset's usual number."""


@dataclass(frozen=True)
class FeedSettings:
    """Settings of the benchmark of one rank's loader at the pace of a recipe's steps."""

    stage: int = 1
    """Stage, from 1."""
    location: str = ""
    """Folder or s3://, gs:// or az:// place for the tokens, 30 MB to 1 GB; tokens of an earlier measurement are reused.
    Default: a folder for temporary files."""
    gpu: str = ""
    """GPU model that sets the pace, instead of the recipe's."""
    mfu: float = ASSUMED_MFU
    """Share of the GPU's peak that the pace assumes."""
    steps: int = 40
    """Steps that count."""
    shard_rows: int = 1000
    """Rows per token shard. Shards are small, so that the steps run through several windows."""
    ranks: int = 0
    """Measure the loader process of one node of this many ranks, 8 a node, and its start in a large index, instead of
    the wait at the pace of a step. An epoch of random tokens is fed. 0: not given."""
    samples_per_rank: int = 32
    """With --ranks: samples of a rank in a step."""
    index_rows: int = 1_000_000_000
    """With --ranks: rows of the index in which the start is measured."""


@dataclass(frozen=True)
class KillSettings:
    """Settings of the benchmark in which processes of a training run are killed repeatedly."""

    minutes: float = 15.0
    """Approximate minutes of the run with kills. The undisturbed run and the recipe's inputs take additional time."""
    seed: int = 0
    """Random seed of the kills: their targets and times."""
    steps: int = 0
    """Steps of the stage. 0: 24 per minute."""
    save_every_steps: int = 5
    """Steps between two checkpoints. With a kill a minute and a checkpoint that costs a fraction of a second, few steps
    are lost if there is one every five to ten seconds (Young's rule: the root of 2 x cost x time between failures)."""
    pause_s: float = 60.0
    """Mean seconds from one kill to the next; a kill during a checkpoint may come later."""
    most_kills: int = 10_000
    """Maximum number of kills."""


@dataclass(frozen=True)
class CountSettings:
    """Settings of the benchmark that counts collectives and the host's time of a training step."""

    ranks: int = 64
    """Ranks of the training. This process is the first one; the others are not there."""
    ranks_per_node: int = 8
    """Ranks, and so GPUs, of a node."""
    layers: int = 0
    """Layers instead of the recipe's. 0: not given."""


@dataclass(frozen=True)
class CheckpointSettings:
    """Settings of the benchmark of a checkpoint's metadata."""

    ranks: int = 1024
    """Ranks that write the checkpoint."""
    parameters: int = 292
    """Trained parameters, of which each rank has a slice."""
    location: str = ""
    """Folder or s3://, gs:// or az:// place for the checkpoint. Default: a folder for temporary files."""


@dataclass(frozen=True)
class MessageSettings:
    """Settings of the benchmark of what head, driver and actors do for a group of many workers."""

    ranks: int = 1024
    """Workers of the group."""
    step_s: float = 2.0
    """Seconds of a training step, after which rank 0 sends its figures. The largest recipe is planned to take 2.2 s."""
    seconds: float = 30.0
    """Seconds that are measured."""


@dataclass(frozen=True)
class PredictSettings:
    """Settings of the benchmark that compares predicted with measured steps behind throttled links."""

    mbit_per_s: tuple[float, ...] = (300.0, 1200.0)
    """Rates in Mbit/s to which each node's link is throttled. Five ways of training are compared at each."""


@dataclass(frozen=True)
class GpuSettings:
    """Settings of the benchmark that measures the planned figures on one GPU."""

    minutes: float = 8.0
    """Minutes of all parts together. Each part has its share, and begins with what the parts before it left over."""
    parts: tuple[str, ...] = ()
    """Measure these parts alone, by name. Default: all."""
    ranks: int = 64
    """Ranks of the training whose first rank this GPU is. The others are not there: their collectives move nothing."""
    ranks_per_node: int = 8
    """Ranks, and so GPUs, of a node."""
    results: str = ""
    """JSON-lines file that figures are appended to as they come. Default: gpu_benchmark.jsonl among the runs."""
