"""The benchmarks' scorers find the pictures and read the right prompt for each."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from jobs import benchmark_prompts
from pipeline.errors import InputError, UsageError
from pipeline.evaluation.suites import SUITES, picture_file, suite_prompts, write_lines

METADATA = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "colors", "include": [{"class": "cow", "count": 1, "color": "red"}], "prompt": "a photo of a red cow"},
]
QUESTIONS = [("COCOval42", "A red cow\nstands", "Is there a cow?"), ("COCOval42", "A red cow\nstands", "Is it red?")]
QUESTIONS += [("partiprompts7", "a long street, at night", "Is it night?")]


def test_genevals_scorer_finds_each_prompts_pictures_beside_its_line(tmp_path: Path) -> None:
    source = tmp_path / "evaluation_metadata.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in METADATA))
    prompts = suite_prompts("geneval", source, 0, 0)
    (tmp_path / "out").mkdir()
    write_lines("geneval", tmp_path / "out", prompts)
    files = [picture_file("geneval", prompt, n, sample, 2) for n, prompt in enumerate(prompts) for sample in range(2)]
    assert files == [f"0000{n}/samples/000{sample}.png" for n in range(2) for sample in range(2)]
    # as evaluation/evaluate_images.py goes through them
    for folder, expected in zip(sorted((tmp_path / "out").iterdir()), METADATA, strict=True):
        assert folder.name.isdigit() and json.loads((folder / "metadata.jsonl").read_text()) == expected
    assert all(re.match(r"\d+\.png", file.rsplit("/", 1)[1]) for file in files)


def test_t2i_compbenchs_scorers_read_the_prompt_from_the_pictures_name(tmp_path: Path) -> None:
    source = tmp_path / "color_val.txt"
    source.write_text("a red apple and a green bowl.\tsomething else\n\na blue bear\n")
    prompts = suite_prompts("t2i_compbench", source, 0, 0)
    files = [
        picture_file("t2i_compbench", prompt, n, sample, 10) for n, prompt in enumerate(prompts) for sample in range(10)
    ]
    names = [file.removeprefix("samples/") for file in files]
    # as BLIPvqa_eval/BLIP_vqa.py and its sisters take the names apart
    assert [name.split("_")[0] for name in names] == ["a red apple and a green bowl."] * 10 + ["a blue bear"] * 10
    assert [int(name.split("_")[-1].split(".")[0]) for name in names] == list(range(20))


@pytest.mark.parametrize("as_folder", [False, True])
def test_dpg_benchs_scorer_finds_each_items_questions_by_the_pictures_name(tmp_path: Path, as_folder: bool) -> None:
    source = tmp_path / ("prompts" if as_folder else "dpg_bench.csv")
    if as_folder:
        source.mkdir()
        for item, text, _ in QUESTIONS:
            (source / f"{item}.txt").write_text(f"{text}\n")
    else:
        with source.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["item_id", "text", "question_natural_language"])
            rows.writerows(QUESTIONS)
    prompts = suite_prompts("dpg_bench", source, 0, 0)
    assert [prompt.text for prompt in prompts] == ["A red cow\nstands", "a long street, at night"]
    files = {picture_file("dpg_bench", prompt, n, s, 4) for n, prompt in enumerate(prompts) for s in range(4)}
    # as dpg_bench/compute_dpg_bench.py: one file an item in the folder, whose name up to the point is the item
    assert {file.removeprefix("images/").split(".")[0] for file in files} == {"COCOval42", "partiprompts7"}


def coco(folder: Path, pictures: int) -> Path:
    captions = [
        {"image_id": 900 - number, "id": 10 * number + again, "caption": f"picture {number},\nsaid {again} times "}
        for number in range(pictures)
        for again in (2, 1)
    ]
    path = folder / "captions_val2014.json"
    path.write_text(json.dumps({"info": {}, "annotations": captions}))
    return path


def test_coco_has_one_caption_a_picture_and_a_part_is_drawn_by_seed(tmp_path: Path) -> None:
    source = coco(tmp_path, pictures=20)
    whole = suite_prompts("coco", source, 0, 0)
    assert len(whole) == 20 and whole[-1].text == "picture 0, said 1 times"
    assert picture_file("coco", whole[-1], 19, 0, 1) == "images/000000000900.png"
    parts = [suite_prompts("coco", source, 5, seed) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2] and set(parts[0]) < set(whole)
    write_lines("coco", tmp_path, parts[0])
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [line["caption"] for line in lines] == [prompt.text for prompt in parts[0]]
    with pytest.raises(InputError, match="has 20 prompts, fewer than --count 21; --count 0 takes all"):
        suite_prompts("coco", source, 21, 0)
    with pytest.raises(InputError, match="has 20 prompts, fewer than the 30000 that coco draws; --count 0 takes all"):
        suite_prompts("coco", source, SUITES["coco"].count, 0)


@pytest.mark.parametrize(
    ("suite", "content", "message"),
    [
        ("geneval", "a red cow\n", "line 1 is no JSON"),
        ("geneval", '{"prompt": "a cow"}\n', "line 1 has no `prompt` and `tag`"),
        ("geneval", "[1]\n", "line 1 has no `prompt`"),
        ("t2i_compbench", "a cow\na snake_case cow\n", "line 2: prompt 'a snake_case cow' .*'_'"),
        ("t2i_compbench", "half / half\n", "line 1: prompt 'half / half'"),
        ("t2i_compbench", "very " * 60, "line 1: the prompt of 299 characters is too long"),
        ("t2i_compbench", "\n \n", "has no prompt"),
        ("dpg_bench", "prompt,question\na,b\n", "has no columns item_id and text"),
        ("dpg_bench", "item_id,text\na.b,cow\n", "item 'a.b' has no text, or a name with"),
        ("dpg_bench", "item_id,text\na, \n", "item 'a' has no text"),
        ("coco", '{"images": []}', "has no `annotations` with captions"),
        ("coco", '{"annotations": []}', "has no prompt; coco needs captions_val2014.json"),
    ],
)
def test_a_prompt_that_the_scorer_would_misread_is_refused_with_its_place(
    tmp_path: Path, suite: str, content: str, message: str
) -> None:
    source = tmp_path / "prompts"
    source.write_text(content)
    with pytest.raises(InputError, match=message):
        suite_prompts(suite, source, 0, 0)


def test_a_wrong_flag_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cow\n")
    flags = dict(root=str(tmp_path), suite="t2i_compbench", prompts=str(tmp_path / "prompts.txt"))

    def refused(error: type[Exception], message: str, **changes: Any) -> None:
        with pytest.raises(error, match=message):
            benchmark_prompts.main(benchmark_prompts.Options(**flags | dict(output=str(tmp_path / "o")) | changes))

    refused(UsageError, "temperature 0 draws the same picture", temperature=0.0)
    refused(UsageError, "name the benchmark's prompt file", prompts="")
    refused(UsageError, "temperature is -1", temperature=-1.0)
    refused(UsageError, "--samples is -2", samples=-2)
    refused(UsageError, "--count is -1", count=-1)
    refused(UsageError, "scorer of dpg_bench reads at most 4", suite="dpg_bench", samples=5)
    refused(UsageError, "leave it out for coco", suite="coco", samples=2)
    refused(InputError, "--prompts 'nothing' does not exist; t2i_compbench needs", prompts="nothing")
