"""Settings of a run's evaluation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of a run's evaluation and of its sample grids.

    Attributes:
        temperature, top_k, guidance_scale: for sampling codes; temperature 0 takes the most likely code.
        num_candidates: pictures that `jobs/generate.py` draws for each caption. The one out of which the model reads
            the caption best is kept, by the likelihood of its captioning. Not in the paper.
        batch_size: prompts generated at once.
        max_caption_ids: maximum ids of a generated caption.
        grid_pictures: columns of the grid of generated pictures, and of the VQ-GAN's sheet.
        where: pandas query over the token table's plain columns that selects the samples to generate and score; empty
            for those that the last stage trained on.
        documents: the corpus whose documents are generated from their first lines and scored; empty for none.
        averaged_weights: take the moving average of the last stage's weights, see `StageConfig.ema_decay`.
        composition: add the scores of `pipeline.demo_scores.composition`.
    """

    temperature: float = 0.0
    top_k: int = 0
    guidance_scale: float = 1.0
    num_candidates: int = 1
    batch_size: int = 64
    max_caption_ids: int = 32
    grid_pictures: int = 12
    where: str = ""
    documents: str = ""
    averaged_weights: bool = False
    composition: bool = False
