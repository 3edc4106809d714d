"""Whoever sees the scores sees whether the model has learned anything at all."""

from pipeline.held_out_scores.verdict import meanings, verdicts

SCORES = {
    "rows": 5,
    "text_to_image/en/bits_a_code": 18.477,
    "text_to_image/zh/bits_a_code": 8.2,
    "frequencies/bits_a_code": 12.606,
    "retrieval/zh/pairs": 32,
    "retrieval/zh/picture_of_caption": 0.25,
    "retrieval/zh/caption_of_picture": 0.5,
}


def test_scores_are_put_beside_those_of_a_model_that_knows_nothing() -> None:
    english, chinese, retrieval = verdicts(SCORES)
    assert english.startswith("text to image, en: 18.48 bits a code, above the 12.61") and "nothing yet" in english
    assert chinese.startswith("text to image, zh: 8.20 bits a code, below the 12.61") and "nothing" not in chinese
    assert (
        "25% of the captions" in retrieval and "50% of the pictures" in retrieval and "guessing finds 3%" in retrieval
    )
    assert verdicts({"fid": 3.0, "text_to_image/en/bits_a_code": 9.0}) == [], "without the frequencies there is none"


def test_the_figures_that_are_there_are_explained() -> None:
    assert list(meanings(SCORES)) == [
        "text_to_image/*/bits_a_code",
        "frequencies/bits_a_code",
        "retrieval/*/pairs",
        "retrieval/*/picture_of_caption",
        "retrieval/*/caption_of_picture",
    ]
    assert meanings({"picture_retrieval_en": 0.9}) == {}
