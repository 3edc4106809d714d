"""Paths of the parts of a run."""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError
from pipeline.weights.start_file import is_starting_model
from tokenization.config.sources import PACKAGED, SHIPPED, CorpusSource
from tokenization.config.vqgan import with_choice

PROJECT = Path(__file__).resolve().parents[2]
"""Folder of the project's packages: a checkout, or the installation folder."""
PACKAGE_CACHE_MARK = "_ray_pkg_"


@dataclass(frozen=True)
class RunPaths:
    """The folders of the run `root/NAME`, and the paths outside of it that the recipe names."""

    run: Path
    recipe: Recipe

    def corpus_of(self, name: str) -> Path:
        """Folder of the shards that `jobs/make_corpus.py` makes for one of the recipe's corpora."""
        return self._of_corpus(name) / "corpus"

    def source_of(self, name: str) -> CorpusSource:
        """One of the recipe's corpora and how to read it: its own path, or the shards of `jobs/make_corpus.py`."""
        own = self.recipe.corpora[name]
        path = own.path if "://" in own.path else str(_absolute(own.path)) if own.path else str(self.corpus_of(name))
        max_bytes = self.recipe.tokenization.limits.max_bytes
        return CorpusSource(path, own.layout, own.image_column, own.folder_shard_rows, max_bytes)

    @property
    def vqgan(self) -> Path:
        """Location of the VQ-GAN that tokenization uses, with the choice of its weights."""
        location = _absolute(self.recipe.vqgan_folder) if self.recipe.vqgan_folder else SHIPPED
        return with_choice(location, self.recipe.vqgan_weights)

    @property
    def language_expert(self) -> Path:
        """Folder or hub name of the recipe's language expert, or the folder of the run's own."""
        folder = self.recipe.language_expert_folder
        return _absolute(folder) if folder else self.run / "lm"

    @property
    def start(self) -> Path:
        """Folder of the starting model that `jobs/init_model.py` makes."""
        return self.run / "start"

    @property
    def initial_model(self) -> Path:
        """Source of the frozen language expert in training: the starting model, if there is one."""
        return self.start if is_starting_model(self.start) else self.language_expert

    def stage(self, number: int) -> Path:
        """Folder of a stage; stages count from 1."""
        return self.run / f"stage{number}"

    def checkpoints(self, number: int) -> str:
        """Folder or URL of a stage's checkpoints."""
        location = self.recipe.checkpoint_folder.rstrip("/")
        if not location:
            return str(self.stage(number) / "checkpoints")
        return f"{location if '://' in location else _absolute(location)}/{self.recipe.name}/stage{number}"

    @property
    def vq(self) -> Path:
        """Folder of a newly trained VQ-GAN."""
        return self.run / "vq"

    def tokens_of(self, name: str) -> str:
        """Folder or URL of the token shards of one of the recipe's corpora."""
        location = self.recipe.corpora[name].tokens
        if "://" in location:
            return location.rstrip("/")
        return str(_absolute(location) if location else self._of_corpus(name) / "tokens")

    @property
    def corpus_source(self) -> CorpusSource:
        return self.source_of(self.recipe.first_corpus)

    @property
    def tokens(self) -> str:
        """Folder or URL of the token shards of the first corpus."""
        return self.tokens_of(self.recipe.first_corpus)

    def _of_corpus(self, name: str) -> Path:
        return self.run if name == self.recipe.first_corpus else self.run / "corpora" / name

    @property
    def ledger(self) -> str:
        """Folder or URL of the ledger's rows."""
        location = self.recipe.ledger_folder.rstrip("/")
        if not location:
            return str(self.run / "ledger")
        return f"{location if '://' in location else _absolute(location)}/{self.recipe.name}"

    @property
    def samples(self) -> Path:
        """Folder of generated pictures and their scores."""
        return self.run / "samples"

    @property
    def documents(self) -> Path:
        """Folder of documents generated from the first lines of the run's training documents."""
        return self.samples / "documents"

    @property
    def text(self) -> Path:
        """Folder of the converted text vocabulary."""
        return self.run / "text"

    @property
    def text_source(self) -> str:
        """Source of the text tokenizer, in a form that every worker can find."""
        source = self.recipe.text_tokenizer
        return source if source == PACKAGED else str(_absolute(source))

    @property
    def export(self) -> Path:
        """Folder of the exported Hugging Face model."""
        return self.run / "export"


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def language_expert_name(paths: RunPaths) -> str:
    """Returns the language expert as the recipe names it, folder or hub name; otherwise the folder of the run's own."""
    return paths.recipe.language_expert_folder or str(paths.language_expert)


def checkout() -> Path:
    """Returns the checkout that the job runs from, or the current folder if the project is installed without one."""
    return PROJECT if (PROJECT / "pyproject.toml").exists() else Path.cwd()


def in_package_cache() -> bool:
    """True if the job runs in a copy of the checkout that Ray made and will delete."""
    return PACKAGE_CACHE_MARK in str(Path.cwd()) or PACKAGE_CACHE_MARK in str(PROJECT)


def run_paths(root: str, recipe: Recipe) -> RunPaths:
    """Returns the run's folders under `root`.

    Raises:
        UsageError: `root` is a URI or a file, or lies in Ray's package cache and would be deleted with it.
    """
    root = os.path.expanduser(root)
    above = Path(root).absolute()
    existing = next(each for each in (above, *above.parents) if each.exists())
    if root and "://" not in root and not existing.is_dir():
        what = "is a file" if existing == above else f"lies below {str(existing)!r}, which is a file"
        raise UsageError(f"--root {root!r} {what}; name a folder, which may be a new one")
    if "://" in root:
        raise UsageError(
            f"--root {root!r}: only folders are supported so far; give a path on a file system all nodes share"
        )
    folder = Path(root) if root else checkout() / "runs"
    if in_package_cache() and (not root or not folder.is_absolute()):
        raise UsageError(
            f"--root {root or 'runs'!r}: the job runs inside Ray's package cache, where outputs vanish; "
            "give an absolute path, as in --root /shared/runs"
        )
    return RunPaths((folder if folder.is_absolute() else Path.cwd() / folder) / recipe.name, recipe)
