"""Where the parts of a run lie."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.config.recipe import Recipe
from pipeline.errors import UsageError
from pipeline.weights.start_file import is_starting_model
from tokenization.config.sources import PACKAGED, SHIPPED, CorpusSource

PROJECT = Path(__file__).resolve().parents[2]
"""The folder of the project's packages: a checkout, or where the project is installed."""
PACKAGE_CACHE_MARK = "_ray_pkg_"


@dataclass(frozen=True)
class RunPaths:
    """The folders of the run `root/NAME`, and what the recipe names outside of it."""

    run: Path
    recipe: Recipe

    def corpus_of(self, name: str) -> Path:
        """The shards that `jobs/make_corpus.py` makes for one of the recipe's corpora."""
        return self._of_corpus(name) / "corpus"

    def source_of(self, name: str) -> CorpusSource:
        """One of the recipe's corpora and how it is read: its path's, or the one that `jobs/make_corpus.py` makes."""
        own = self.recipe.corpora[name]
        path = (
            own.path if "://" in own.path else str(Path(own.path).absolute()) if own.path else str(self.corpus_of(name))
        )
        max_bytes = self.recipe.tokenization.limits.max_bytes
        return CorpusSource(path, own.layout, own.image_column, own.folder_shard_rows, max_bytes)

    @property
    def vqgan(self) -> Path:
        """The VQ-GAN that tokenization uses."""
        return Path(self.recipe.vqgan_folder).absolute() if self.recipe.vqgan_folder else SHIPPED

    @property
    def language_expert(self) -> Path:
        """The language expert that the recipe names, or the run's own."""
        folder = self.recipe.language_expert_folder
        return Path(folder).absolute() if folder else self.run / "lm"

    @property
    def start(self) -> Path:
        """The starting model that `jobs/init_model.py` makes."""
        return self.run / "start"

    @property
    def base(self) -> Path:
        """What training freezes the language expert of: the starting model where there is one."""
        return self.start if is_starting_model(self.start) else self.language_expert

    def stage(self, number: int) -> Path:
        """A stage's folder; stages count from 1."""
        return self.run / f"stage{number}"

    def checkpoints(self, number: int) -> str:
        """Folder or URL of a stage's checkpoints."""
        place = self.recipe.checkpoint_folder.rstrip("/")
        if not place:
            return str(self.stage(number) / "checkpoints")
        return f"{place if '://' in place else Path(place).absolute()}/{self.recipe.name}/stage{number}"

    @property
    def vq(self) -> Path:
        """Where a newly trained VQ-GAN goes."""
        return self.run / "vq"

    def tokens_of(self, name: str) -> str:
        """Folder or URL of the token shards of one of the recipe's corpora."""
        place = self.recipe.corpora[name].tokens
        if "://" in place:
            return place.rstrip("/")
        return str(Path(place).absolute() if place else self._of_corpus(name) / "tokens")

    @property
    def corpus_source(self) -> CorpusSource:
        """The first corpus."""
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
        place = self.recipe.ledger_folder.rstrip("/")
        if not place:
            return str(self.run / "ledger")
        return f"{place if '://' in place else Path(place).absolute()}/{self.recipe.name}"

    @property
    def samples(self) -> Path:
        """Generated pictures and their scores."""
        return self.run / "samples"

    @property
    def documents(self) -> Path:
        """Documents generated from the first lines of those that the run trained on."""
        return self.samples / "documents"

    @property
    def text(self) -> Path:
        """The converted text vocabulary."""
        return self.run / "text"

    @property
    def text_source(self) -> str:
        """The text tokenizer's source, as every worker finds it."""
        source = self.recipe.text_tokenizer
        return source if source == PACKAGED else str(Path(source).absolute())

    @property
    def export(self) -> Path:
        """The trained model as a Hugging Face folder."""
        return self.run / "export"


def language_expert_name(paths: RunPaths) -> str:
    """The language expert as the recipe names it, folder or hub name; else where the run's own lies."""
    return paths.recipe.language_expert_folder or str(paths.language_expert)


def checkout() -> Path:
    """The checkout that the job runs from; the current folder where the project is installed without one."""
    return PROJECT if (PROJECT / "pyproject.toml").exists() else Path.cwd()


def in_package_cache() -> bool:
    """Whether the job runs in a copy of the checkout that Ray made and will delete."""
    return PACKAGE_CACHE_MARK in str(Path.cwd()) or PACKAGE_CACHE_MARK in str(PROJECT)


def run_paths(root: str, recipe: Recipe) -> RunPaths:
    """The run's folders under `root`.

    Raises:
        UsageError: a URI, a file, or a root that would lie in Ray's package cache and vanish with it.
    """
    if root and Path(root).exists() and not Path(root).is_dir():
        raise UsageError(f"--root {root!r} is a file; name a folder, which may be a new one")
    if "://" in root:
        raise UsageError(
            f"--root {root!r}: only folders are supported so far; give a path on a file system all nodes share"
        )
    folder = Path(root).expanduser() if root else checkout() / "runs"
    if in_package_cache() and (not root or not folder.is_absolute()):
        raise UsageError(
            f"--root {root or 'runs'!r}: the job runs inside Ray's package cache, where outputs vanish; "
            "give an absolute path, as in --root /shared/runs"
        )
    return RunPaths((folder if folder.is_absolute() else Path.cwd() / folder) / recipe.name, recipe)
