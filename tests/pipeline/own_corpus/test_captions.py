"""A user does not say which columns hold captions, nor in which language: they are found."""

from typing import Any

from pipeline.own_corpus.captions import caption_columns, columns_not_taken
from tokenization.corpora.samples import Sample

ENGLISH = ("a red bicycle by a wall", "two cats asleep", "the sea at night", "an old map")
CHINESE = ("墙边的红色自行车", "两只睡着的猫", "夜晚的大海", "一张旧地图")


def samples_with(**columns: tuple[Any, ...]) -> list[Sample]:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [Sample(str(number), b"x", row) for number, row in enumerate(rows)]


def languages(samples: list[Sample]) -> dict[str, str]:
    return {column.name: column.language for column in caption_columns(samples)}


def test_the_caption_is_found_among_the_columns_of_img2dataset() -> None:
    samples = samples_with(
        url=("http://a/1.jpg",) * 4,
        caption=ENGLISH,
        key=("000", "001", "002", "003"),
        status=("success and nothing more",) * 4,
        original_width=(1, 2, 3, 4),
        exif=('{"Image Make": "Canon Inc"}',) * 4,
    )
    assert languages(samples) == {"caption": "en"}


def test_each_column_has_its_own_language() -> None:
    assert languages(samples_with(caption=ENGLISH, text_2=CHINESE)) == {"caption": "en", "text_2": "zh"}
    assert languages(samples_with(en=ENGLISH, seen_zh=CHINESE, city=ENGLISH)) == {"en": "en", "seen_zh": "zh"}


def test_columns_with_the_same_texts_are_one() -> None:
    samples = [Sample(str(n), b"x", {"caption": text}, text=text) for n, text in enumerate(ENGLISH)]
    assert languages(samples) == {"caption": "en"}
    samples = [Sample(str(n), b"x", {"caption": text}, text=CHINESE[n]) for n, text in enumerate(ENGLISH)]
    assert languages(samples) == {"caption": "en", "txt": "zh"}


def test_the_text_files_beside_pictures_are_captions() -> None:
    assert languages([Sample("a", b"x", text=text) for text in CHINESE]) == {"txt": "zh"}


def test_where_no_name_says_caption_the_sentences_are_taken() -> None:
    samples = samples_with(seen=ENGLISH, place=("Rome", "Oslo", "Bern", "Lima"), image_url=("http://a b c",) * 4)
    assert languages(samples) == {"seen": "en"}


def test_a_list_of_captions_is_a_caption_column_and_numbers_and_empty_ones_are_not() -> None:
    columns = {"captions": tuple([text, "another"] for text in ENGLISH), "caption_score": (0.1, 0.2, 0.3, 0.4)}
    assert languages(samples_with(**columns, title=("", " ", None, ""))) == {"captions": "en"}


def test_texts_in_other_scripts_are_told() -> None:
    (column,) = caption_columns(samples_with(caption=("красный велосипед", "две кошки", "the sea", "夜の海です")))
    assert column.language == "en" and column.other_script == 0.75


def test_chinese_names_of_columns_say_caption_too() -> None:
    for name in ("描述", "图片标题", "文本", "说明"):
        assert languages(samples_with(**{"captions": ENGLISH, name: CHINESE})) == {"captions": "en", name: "zh"}


def test_columns_with_sentences_that_are_not_taken_are_told() -> None:
    columns = {"caption": ENGLISH, "copy": ENGLISH, "备注": CHINESE, "notes": ("seen in a garden",) * 4}
    samples = samples_with(**columns, url=("http://a b c",) * 4, artist=("Ann", "Bo", "Cy", "Di"))
    taken = caption_columns(samples)
    assert [column.name for column in taken] == ["caption"]
    assert columns_not_taken(samples, taken) == ["备注", "notes"], "nothing is lost without a word"
