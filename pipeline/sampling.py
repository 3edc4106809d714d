"""The name by which model cards import `Sampling`; it lives in `pipeline.generation.sampling`."""

from pipeline.generation.sampling import Sampling as Sampling
