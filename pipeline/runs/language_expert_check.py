"""Checks the language expert of a run before anything starts."""

from pipeline.architecture.mars_config import ExpertConfig
from pipeline.config.sample_limits import positions_problem
from pipeline.config.stage import StageConfig
from pipeline.errors import InputError, UsageError
from pipeline.runs.paths import RunPaths, language_expert_name
from pipeline.weights.hub import HUB_NAME
from pipeline.weights.language_expert_formats import language_expert_config
from pipeline.weights.start_file import START_FILE, is_starting_model
from pipeline.weights.starting_model import StartOptions, finished_record
from tokenization.files.places import is_same_place
from tokenization.table.token_table import Fingerprint


def base_config(paths: RunPaths) -> ExpertConfig:
    """Returns the config of the run's language expert.

    Raises:
        InputError: it is missing, or cannot serve as one; see `language_expert_config`.
    """
    named = paths.recipe.language_expert_folder
    if not paths.initial_model.exists() and HUB_NAME.fullmatch(named):
        raise InputError(
            f"language expert {named!r} is no folder here, and the run has no starting model; run jobs/init_model.py, "
            "which also fetches a model of that name from the hub"
        )
    return language_expert_config(paths.initial_model)


def check_base(paths: RunPaths, number: int, stage: StageConfig, fingerprint: Fingerprint, longest: int) -> None:
    """Checks the language expert against stage `number`.

    The stage's samples have up to `longest` tokens, and its documents up to `seq_len`.

    Raises:
        InputError: see `base_config`; or the starting model has another language expert or other options.
        UsageError: samples can be longer than the sequences that the language expert was trained on.
    """
    config, recipe, named = base_config(paths), paths.recipe, language_expert_name(paths)
    if is_starting_model(paths.initial_model):
        options = StartOptions(fingerprint.codebook_size, recipe.model_options)
        record = finished_record(paths.initial_model, options)
        if paths.initial_model == paths.start and not is_same_place(record.language_expert, named, paths.run):
            raise InputError(
                f"starting model {str(paths.start)!r} was made of {record.language_expert!r}, the recipe names "
                f"{named!r}; undo the change, or remove the folder and run jobs/init_model.py (where the language "
                f"expert has only moved, write its new path into {START_FILE} there)"
            )
    has_documents = any(recipe.corpora[name].has_documents for name in stage.sources)
    if problem := positions_problem(stage, longest, has_documents, config.max_position_embeddings):
        raise UsageError(f"stage {number}: {problem}")
