"""`jobs/tokenize.py` takes the flags that are given, and leaves all other settings to the recipe."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import tyro

from jobs.common.flags import check_given_once, expanded
from jobs.common.recipes import load_recipe
from jobs.tokenize import Options
from pipeline.config import CorpusConfig
from pipeline.errors import UsageError
from pipeline.launch.tokenization import check_columns, check_resources
from pipeline.runs.paths import run_paths
from pipeline.runtime.ray_connection import check_gpus
from tests.support.checkout import CHECKOUT
from tests.support.corpora import corpus_in
from tests.support.corpus_files import write_members
from tests.support.pictures import noise_png
from tokenization.config.tokenization import TokenizationConfig
from tokenization.config.workers import Workers
from tokenization.files.storage import open_storage

RECIPE_AT_HOME = """
from pipeline.config import Recipe, Source, StageConfig

def recipe():
    source = Source(where="~flag", side_tables=("~/scores.parquet",))
    stage = StageConfig("one", sources={"main": source}, task_shares={"text_to_image": 1.0})
    return Recipe("mine", text_tokenizer="~/text", stages=(stage,))
"""


def options(*words: str) -> Options:
    return tyro.cli(Options, args=list(words))


@pytest.mark.parametrize("name", ["demo", "mars_7b"])
def test_without_flags_everything_is_the_recipes(name: str) -> None:
    recipe = load_recipe(name)
    assert options().applied(recipe) == recipe
    assert options().names(recipe) == list(recipe.corpora)


def test_zero_and_the_empty_string_are_values() -> None:
    demo = load_recipe("demo")
    words = (
        "--hr-resolution",
        "0",
        "--hr-where",
        "",
        "--readers",
        "0",
        "--min-side",
        "0",
        "--layout",
        "",
        "--corpus",
        "",
    )
    corpus = replace(demo.corpus, path="/else", layout="parquet")
    recipe = replace(
        demo,
        corpora=demo.corpora | {demo.first_corpus: corpus},
        tokenizers=replace(demo.tokenizers, max_readers=3),
    )
    applied = options(*words).applied(recipe)
    assert recipe.tokenization.size_hr_px and recipe.tokenization.hr_where
    assert applied.tokenization.size_hr_px == 0 and applied.tokenization.hr_where == ""
    assert applied.tokenizers.max_readers == 0 and applied.tokenization.limits.min_side_px == 0
    assert applied.corpus.path == "" and applied.corpus.layout == ""


def test_a_flag_of_one_corpus_leaves_the_others_out() -> None:
    recipe = load_recipe("demo")
    given = options("--output", "s3://bucket/tokens")
    assert given.applied(recipe).corpus.tokens == "s3://bucket/tokens"
    assert given.names(recipe) == [recipe.first_corpus]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--resolution", "0"), "--resolution is 0, but must be at least 1"),
        (("--encoders", "0"), "--encoders is 0, but must be at least 1"),
        (("--max-side", "-1"), "--max-side is -1, but must be at least 1"),
        (("--captions", "en"), "write LANGUAGE=COLUMN"),
        (("--captions", "en=caption", "zh=caption"), "column 'caption' is 'en' already"),
        (
            ("--captions", "fr=caption"),
            "captions of 'caption' are in 'fr', which no stage knows; the languages are en, zh",
        ),
        (("--max-bytes", "0"), "--max-bytes is 0, but must be at least 1"),
        (("--max-aspect-ratio", "0.5"), "--max-aspect-ratio is 0.5, but must be at least 1"),
        (("--min-side", "100", "--max-pixels", "9999"), "min_side_px is 100, whose square is more than max_pixels"),
        (("--max-aspect-ratio", "nan"), "--max-aspect-ratio is nan, but must be at least 1"),
        (("--captions",), "--captions is empty; write LANGUAGE=COLUMN"),
        (("--image-column", "x", "--layout", "webdataset"), "--image-column is only for the layout parquet"),
        (("--min-side", "9", "--max-side", "8"), "min_side_px is 9, more than max_side_px, 8"),
        (("--hr-resolution", "0", "--hr-where", "score > 6"), "add --hr-resolution"),
        (
            ("--resolution", "64", "--set", "tokenization.size_px=64"),
            "--resolution and --set tokenization.size",
        ),
        (("--captions", "en=a", "--set", "tokenization.caption_columns.b=zh"), "--captions and --set"),
        (("--corpus", "x", "--set", "corpora.drawings.path=y"), "--corpus and --set corpora.drawings.path decide"),
    ],
)
def test_what_no_flag_can_be_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(*words).applied(load_recipe("demo"))


def test_a_home_folder_is_found_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A shell leaves `~` as it is in --corpus=~/data, and so does a recipe."""
    monkeypatch.setenv("HOME", str(tmp_path))
    given = expanded(options("--corpus=~/data", "--output", "~/out", "--root=~", "--hr-where", "~flag"))
    assert (given.corpus, given.output, given.root) == (f"{tmp_path}/data", f"{tmp_path}/out", str(tmp_path))
    assert given.hr_where == "~flag"
    places = ("vqgan_folder", "language_expert_folder", "text_tokenizer", "checkpoint_folder", "ledger_folder")
    recipe = load_recipe("demo", tuple(f"{name}=~/there" for name in places))
    paths = run_paths("~/runs", recipe)
    assert all(getattr(recipe, name) == f"{tmp_path}/there" for name in places) and paths.run == tmp_path / "runs/demo"
    written = replace(recipe, corpora={"main": CorpusConfig(path="~/data", tokens="~/tokens")}, vqgan_folder="~/vq")
    paths = run_paths("~/runs", written)
    assert paths.source_of("main").url == f"{tmp_path}/data" and paths.tokens == f"{tmp_path}/tokens"
    file = tmp_path / "mine.py"
    file.write_text(RECIPE_AT_HOME)
    mine = load_recipe(str(file))
    assert mine.text_tokenizer == f"{tmp_path}/text" and mine.stages[0].sources["main"].where == "~flag"
    assert mine.stages[0].sources["main"].side_tables == (f"{tmp_path}/scores.parquet",)
    assert paths.vqgan == tmp_path / "vq" and str(open_storage("~/a")) == f"{tmp_path}/a"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--corpus", "a", "--corpus", "b"), "--corpus is given 2 times"),
        (("--corpus=a", "--corpus=a"), "--corpus is given 2 times"),
        (("--hr-resolution", "1", "--hr_resolution", "2"), "--hr-resolution is given 2 times"),
        (("--captions", "en=a", "--captions", "zh=b"), "--captions is given 2 times"),
        (("--json", "--no-json"), "--json is given 2 times"),
    ],
)
def test_a_flag_given_twice_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_given_once(Options, words)


@pytest.mark.parametrize("path", sorted((CHECKOUT / "jobs").glob("*.py")), ids=lambda path: path.stem)
def test_set_may_be_given_twice_to_every_job(path: Path) -> None:
    options_type = getattr(import_module(f"jobs.{path.stem}"), "Options", None)
    if options_type is not None and path.stem not in ("check_cluster", "new_recipe", "preflight", "submit"):
        check_given_once(options_type, ("report", "--set", "a=1", "--set", "b=2"))


def test_flags_that_are_collected_may_be_given_twice() -> None:
    check_given_once(Options, ("--set", "a=1", "--set", "b=2", "--corpus", "x", "--", "--corpus", "y"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("seed=1", "seed=2"), "--set seed overwrites the earlier --set seed"),
        (("tokenization.caption_columns.a=en", "tokenization.caption_columns={}"), "overwrites the earlier --set"),
        (("tokenization.size_px=0",), "tokenization.size_px is 0, but must be at least 1"),
        (("tokenization.encode_batch_size=0",), "encode_batch_size is 0"),
        (("tokenization.encoder_dtype=float8",), "encoder_dtype is 'float8', but must be one of float32"),
        (("tokenization.caption_columns.caption_fr=fr",), "which no stage knows; the languages are en, zh"),
        (("tokenization.limits.max_pixels=0",), "tokenization.limits.max_pixels is 0"),
        (("tokenizers.num_encoders=0",), "tokenizers.num_encoders is 0"),
        (("tokenizers.reader_resources.GPU=1",), "'GPU', which is not a custom resource"),
        (("tokenizers.encoder_resources.big=0",), "0 of 'big', but it must be a number above 0"),
        (("tokenizers.encoder_resources.big=1.5",), "1.5 of 'big'; above 1 it must be a whole number"),
        (
            ("tokenizers.reader_label_selector.rack=a b",),
            "'a b' for the node label 'rack'; write a value without spaces",
        ),
        (("scaling.label_selector={'my rack': 'a'}",), "scaling.label_selector has the node label 'my rack'; name one"),
        (("corpora.drawings.folder_shard_rows=0",), "corpora.drawings.folder_shard_rows is 0"),
        (("vqgan.image_size_px=0",), "vqgan.image_size_px is 0"),
        (("language_expert.hidden_size=0",), "language_expert.hidden_size is 0"),
        (("evaluation.batch_size=0",), "evaluation.batch_size is 0"),
        (("corpora.drawings.tokens=/a", "corpora.lists.tokens=/a"), "several corpora have the tokens '/a'"),
        (("corpora.drawings.layout=rar",), "corpora.drawings.layout is 'rar', but must be one of webdataset"),
    ],
)
def test_settings_that_nothing_can_be_made_with_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe("demo", overrides)
    load_recipe("demo", ("tokenization.caption_columns={}", "tokenization.caption_columns.a=en"))


def test_columns_that_a_detected_layout_does_not_have_are_refused(tmp_path: Path) -> None:
    write_members(tmp_path / "a.tar", [("0.png", noise_png(0)), ("0.txt", b"zero")])
    config = TokenizationConfig()
    check_columns(corpus_in(tmp_path), config)
    with pytest.raises(UsageError, match="image_column is 'x', but corpus .* has layout webdataset; leave it out"):
        check_columns(corpus_in(tmp_path, image_column="x"), config)
    with pytest.raises(UsageError, match="no caption column is named for corpus"):
        check_columns(corpus_in(tmp_path), replace(config, caption_columns={}))
    check_columns(corpus_in(tmp_path, layout="documents"), replace(config, caption_columns={}))


def test_devices_that_this_machine_has_not_are_asked_of_a_cluster_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(UsageError, match="use_gpu is set, and torch finds no GPU"):
        check_gpus(True)
    with pytest.raises(UsageError, match="the resource 'big', which a Ray started on this machine does not have"):
        check_resources(Workers(encoder_resources={"big": 1}))
    check_gpus(False)
    check_resources(Workers())
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    check_gpus(True)
    check_resources(Workers(encoder_resources={"big": 1}))
