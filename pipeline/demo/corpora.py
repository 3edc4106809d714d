"""Makes the demo's corpora if they are missing."""

from pipeline.config.recipe import CorpusConfig, Recipe
from pipeline.runs.made_shards import ShardTasks, write_missing
from pipeline.runs.paths import RunPaths
from pipeline.runtime.terminal import say
from tokenization.demo.lists import LISTS_FILE, illustrated_lists, write_lists
from tokenization.demo.openmoji import ATTRIBUTION, list_drawings, write_shard


def attribution_of(corpus: CorpusConfig) -> str:
    """Returns the attribution to show with pictures of a corpus; empty for a corpus that this project did not make."""
    return "" if corpus.path else ATTRIBUTION


def make_corpus(name: str, recipe: Recipe, paths: RunPaths) -> None:
    """Makes the missing shards of one of the recipe's corpora."""
    corpus, folder, drawings = recipe.corpora[name], paths.corpus_of(name), list_drawings()
    if corpus.made == "lists":
        lists = illustrated_lists(drawings, corpus.groups, corpus.lists_per_group, corpus.pictures_per_list)
        tasks: ShardTasks = {folder / LISTS_FILE: (write_lists, (lists, corpus.size_px), len(lists))}
        what = f"{len(lists)} illustrated lists"
    else:
        size = corpus.shard_rows
        pieces = [drawings[start : start + size] for start in range(0, len(drawings), size)]
        tasks = {
            folder / f"{number:05d}.tar": (write_shard, (piece, number, corpus.size_px), len(piece))
            for number, piece in enumerate(pieces)
        }
        what = f"{len(drawings)} drawings"
    write_missing(tasks, paths)
    say(f"corpus: {what} at {corpus.size_px} px in {folder}. {attribution_of(corpus)}")
