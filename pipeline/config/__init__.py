"""Every setting of a run as frozen dataclasses, GPU types and tasks included: all that a recipe imports. Imports the
standard library, `pipeline.errors` and `tokenization.config` alone."""

from pipeline.config.evaluation import EvaluationConfig as EvaluationConfig
from pipeline.config.language_expert import LanguageExpertConfig as LanguageExpertConfig
from pipeline.config.model import ModelOptions as ModelOptions
from pipeline.config.recipe import CorpusConfig as CorpusConfig
from pipeline.config.recipe import PlanConfig as PlanConfig
from pipeline.config.recipe import Recipe as Recipe
from pipeline.config.scaling import ScalingConfig as ScalingConfig
from pipeline.config.stage import MAIN as MAIN
from pipeline.config.stage import Source as Source
from pipeline.config.stage import StageConfig as StageConfig
from pipeline.config.zero import ZeroConfig as ZeroConfig
from tokenization.config.cpu import fast_cpu_dtype as fast_cpu_dtype
from tokenization.config.pictures import Limits as Limits
from tokenization.config.tokenization import TokenizationConfig as TokenizationConfig
from tokenization.config.vqgan import OPEN_MUSE as OPEN_MUSE
from tokenization.config.vqgan import PIXEL_SHUFFLE as PIXEL_SHUFFLE
from tokenization.config.vqgan import VqganConfig as VqganConfig
from tokenization.config.workers import Workers as Workers
