"""Benchmarks tokenization: a corpus of noise, tokenized by the pipeline and by its parts alone."""

import os
import tempfile
from pathlib import Path
from typing import Any

import ray
import torch

from pipeline.benchmarks.step import device_name
from pipeline.config.benchmarks import TokenizeSettings
from pipeline.config.gpus import peak_flop_per_s
from pipeline.runtime.ray_connection import connect_to_ray
from pipeline.runtime.terminal import say
from tokenization.config.sources import PACKAGED, SHIPPED, CorpusSource
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.vqgan import OPEN_MUSE
from tokenization.config.workers import Workers
from tokenization.corpora.corpus import Corpus
from tokenization.corpora.noise import write_noise_shard
from tokenization.job.benchmark import encoder_flop, measure_tokenization
from tokenization.job.rows import Tools
from tokenization.vqgan.model import build_vqgan


def benchmark_tokenization(settings: TokenizeSettings) -> dict[str, Any]:
    """Times tokenization on the devices of this machine."""
    connect_to_ray()
    use_gpu = torch.cuda.is_available()
    workers = Workers(num_encoders=torch.cuda.device_count() or os.cpu_count() or 1, use_gpu=use_gpu)
    config = TokenizationConfig(
        size_px=settings.resolution,
        encode_batch_size=settings.encode_batch_size,
        encoder_dtype="bfloat16" if settings.dtype == "auto" else settings.dtype,
    )
    geometry = settings.geometry if settings.geometry != "auto" else "open_muse" if use_gpu else "demo"
    with tempfile.TemporaryDirectory() as folder:
        vqgan = SHIPPED
        if geometry == "open_muse":
            vqgan = Path(folder) / "vq"
            build_vqgan(OPEN_MUSE).save_pretrained(vqgan)
        tools = Tools(vqgan, PACKAGED, Path(folder) / "text")
        shard_rows = max(settings.naive_rows + 10, settings.rows // 16, 4 * settings.encode_batch_size)
        write = ray.remote(write_noise_shard)
        ray.get(
            [
                write.remote(
                    Path(folder) / f"corpus/{start:06d}.tar",
                    start,
                    min(shard_rows, settings.rows - start),
                    settings.source_px,
                    0,
                )
                for start in range(0, settings.rows, shard_rows)
            ]
        )
        corpus = Corpus(CorpusSource(f"{folder}/corpus"))
        rates = measure_tokenization(corpus, config, tools, workers, settings.rows, settings.naive_rows, say)
        flop = encoder_flop(config, tools)
    device = device_name(torch.device("cuda" if use_gpu else "cpu"))
    peak = peak_flop_per_s(device) if use_gpu else None
    return {
        "device": device if use_gpu else f"CPU, {os.cpu_count()} cores",
        "geometry": geometry,
        "encoders": workers.num_encoders,
        "encoder_flop_per_image": flop,
        "images_per_s": rates.pipeline,
        "bare_encoder_images_per_s": rates.encoder,
        "reader_images_per_s": rates.reader,
        "naive_images_per_s": rates.naive,
        "ratio_to_ideal": rates.pipeline / rates.ideal(use_gpu),
        "speedup_over_naive": rates.pipeline / rates.naive,
        "peak_rss_bytes": rates.peak_rss_bytes,
        "encoder_mfu": flop * rates.encoder / workers.num_encoders / peak if peak else None,
    }
