"""What `jobs/tokenize.py` takes from its flags, and what it leaves to the recipe."""

from dataclasses import replace

import pytest
import tyro

from jobs.common.recipes import load_recipe
from jobs.tokenize import Options
from pipeline.errors import UsageError


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
        "--max-bytes",
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
    assert applied.tokenizers.max_readers == 0 and applied.tokenization.limits.max_bytes == 0
    assert applied.corpus.path == "" and applied.corpus.layout == ""


def test_a_flag_of_one_corpus_leaves_the_others_out() -> None:
    recipe = load_recipe("demo")
    given = options("--output", "s3://bucket/tokens")
    assert given.applied(recipe).corpus.tokens == "s3://bucket/tokens"
    assert given.names(recipe) == [recipe.first_corpus]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--resolution", "0"), "--resolution is 0, it must be at least 1"),
        (("--encoders", "0"), "--encoders is 0, it must be at least 1"),
        (("--max-side", "-1"), "--max-side is -1, it must be at least 0"),
        (("--captions", "en"), "write LANGUAGE=COLUMN"),
    ],
)
def test_what_no_flag_can_be_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(*words).applied(load_recipe("demo"))
