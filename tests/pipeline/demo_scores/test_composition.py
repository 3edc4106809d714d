"""The composition score measures pairs that training never saw, as it is defined."""

from collections import Counter

import numpy as np
import pytest

from jobs.common.recipes import load_recipe
from pipeline.config import MAIN
from pipeline.demo_scores.composition import nearest_credit
from tokenization.demo.compositions import SEEN, TONES, UNSEEN, VARIANTS, compositions
from tokenization.demo.lists import illustrated_lists
from tokenization.demo.openmoji import Drawing, list_drawings


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return list_drawings()


def test_a_tenth_of_the_pairs_is_held_out_and_every_subject_and_tone_is_still_seen(drawings: list[Drawing]) -> None:
    pairs = [drawing for drawing in drawings if drawing.composition]
    assert len({drawing.subject for drawing in pairs}) == 323 and len(pairs) == 6 * 323
    seen, unseen = ([one for one in pairs if one.composition == name] for name in (SEEN, UNSEEN))
    assert len(unseen) == round(len(pairs) / 10)
    assert {one.subject for one in seen} == {one.subject for one in pairs}
    assert set(Counter(one.tone for one in unseen).values()) <= {32, 33}
    assert {(one.subject, one.tone) for one in seen}.isdisjoint((one.subject, one.tone) for one in unseen)
    for part in (seen, unseen):
        assert sorted(one.composition_rank for one in part) == list(range(len(part)))


def test_a_held_out_pairs_name_is_not_a_seen_ones(drawings: list[Drawing]) -> None:
    """Otherwise training would tell the model what it should compose."""
    names = {
        name: {text for one in drawings if one.composition == name for text in (one.caption_en, one.caption_zh)}
        for name in (SEEN, UNSEEN)
    }
    assert names[SEEN].isdisjoint(names[UNSEEN])
    tones = {
        "": "",
        "light": "较浅",
        "medium-light": "中等浅",
        "medium": "中等",
        "medium-dark": "中等深",
        "dark": "较深",
    }
    for one in drawings:
        if one.composition and one.tone:
            assert f" {one.tone} skin tone" in one.caption_en and f"{tones[one.tone]}肤色" in one.caption_zh


def test_couples_and_subjects_without_all_variants_are_left_out() -> None:
    whole = [("wave", ())] + [("wave", (tone,)) for tone in TONES]
    couple = [("kiss", ())] + [("kiss", (tone, tone)) for tone in TONES]
    part = [("ear", ()), ("ear", ("light",))]
    found = compositions([*couple, *whole, *part])
    assert [name for name, _ in found[6:12]].count(UNSEEN) == 1
    assert all(one == ("", -1) for one in [*found[:6], *found[12:]])
    assert found == compositions([*couple, *whole, *part])


def test_the_recipe_trains_on_seen_pairs_alone(drawings: list[Drawing]) -> None:
    recipe = load_recipe("demo_compose")
    assert {name for stage in recipe.stages for name in stage.sources} == {MAIN, "lists"}
    assert [stage.sources[MAIN].where for stage in recipe.stages] == ["composition == 'seen'"] * len(recipe.stages)
    assert recipe.language_expert.where == "composition == 'seen'"
    lists = recipe.corpora["lists"]
    pictures = illustrated_lists(drawings, lists.groups, lists.lists_per_group, lists.pictures_per_list)
    assert UNSEEN not in {one.composition for each in pictures for one in each.drawings}


def test_a_picture_counts_where_its_own_drawing_is_nearest_and_ties_share() -> None:
    shades = np.asarray([0, 40, 80, 120, 160, 160], np.uint8)  # the last two variants look alike
    six = np.broadcast_to(shades[:, None, None, None], (6, 4, 4, 3))
    pictures = np.stack([np.full((4, 4, 3), shade, np.uint8) for shade in (45, 45, 158, 158, 255)])
    wanted = np.asarray([1, 2, 4, 5, 0])
    credit, nearest = nearest_credit(pictures, np.stack([six] * 5), wanted)
    assert credit.tolist() == [1, 0, 0.5, 0.5, 0]
    assert nearest.tolist() == [1, 1, 4, 4, 4]


def test_guessing_gets_a_sixth_whatever_looks_alike() -> None:
    generator = np.random.default_rng(0)
    six = generator.integers(0, 255, (600, 6, 2, 2, 3), dtype=np.uint8)
    six[:, 5] = six[:, 4]
    same_for_all_six = np.repeat(generator.integers(0, 255, (100, 2, 2, 3), dtype=np.uint8), 6, axis=0)
    credit, _ = nearest_credit(same_for_all_six, np.repeat(six[:100], 6, axis=0), np.tile(np.arange(6), 100))
    assert credit.mean() == pytest.approx(1 / len(VARIANTS))
