"""The benchmarks' scorers find the pictures and read the right prompt for each."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from jobs import export_for_scorers
from pipeline.errors import InputError, UsageError
from pipeline.evaluation.scorer_layouts import picture_file, read_prompts, write_metadata

METADATA = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "colors", "include": [{"class": "cow", "count": 1, "color": "red"}], "prompt": "a photo of a red cow"},
]


def test_genevals_scorer_finds_each_prompts_pictures_beside_its_line(tmp_path: Path) -> None:
    source = tmp_path / "evaluation_metadata.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in METADATA))
    prompts = read_prompts("geneval", source)
    write_metadata("geneval", tmp_path / "out", prompts)
    files = [picture_file("geneval", prompt, n, sample, 2) for n, prompt in enumerate(prompts) for sample in range(2)]
    assert files == [f"0000{n}/samples/000{sample}.png" for n in range(2) for sample in range(2)]
    # as evaluation/evaluate_images.py goes through them
    for folder, expected in zip(sorted((tmp_path / "out").iterdir()), METADATA, strict=True):
        assert folder.name.isdigit() and json.loads((folder / "metadata.jsonl").read_text()) == expected
    assert all(re.match(r"\d+\.png", file.rsplit("/", 1)[1]) for file in files)


def test_t2i_compbenchs_scorers_read_the_prompt_from_the_pictures_name(tmp_path: Path) -> None:
    source = tmp_path / "color_val.txt"
    source.write_text("a red apple and a green bowl.\tsomething else\n\na blue bear\n")
    prompts = read_prompts("t2i-compbench", source)
    files = [
        picture_file("t2i-compbench", prompt, n, sample, 10) for n, prompt in enumerate(prompts) for sample in range(10)
    ]
    names = [file.removeprefix("samples/") for file in files]
    # as BLIPvqa_eval/BLIP_vqa.py and its sisters take the names apart
    assert [name.split("_")[0] for name in names] == ["a red apple and a green bowl."] * 10 + ["a blue bear"] * 10
    assert [int(name.split("_")[-1].split(".")[0]) for name in names] == list(range(20))


@pytest.mark.parametrize(
    ("layout", "content", "message"),
    [
        ("geneval", "a red cow\n", "line 1 is no JSON"),
        ("geneval", '{"prompt": "a cow"}\n', "line 1 has no `prompt` and `tag`"),
        ("geneval", "[1]\n", "line 1 has no `prompt`"),
        ("t2i-compbench", "a cow\na snake_case cow\n", "line 2: prompt 'a snake_case cow' .*'_'"),
        ("t2i-compbench", "half / half\n", "line 1: prompt 'half / half'"),
        ("t2i-compbench", "very " * 60, "line 1: the prompt of 299 characters is too long"),
        ("t2i-compbench", "\n \n", "has no prompt"),
    ],
)
def test_a_prompt_that_the_scorer_would_misread_is_refused_with_its_line(
    tmp_path: Path, layout: str, content: str, message: str
) -> None:
    source = tmp_path / "prompts"
    source.write_text(content)
    with pytest.raises(InputError, match=message):
        read_prompts(layout, source)


def test_a_wrong_flag_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a cow\n")
    flags = dict(root=str(tmp_path), layout="t2i-compbench", prompts=str(tmp_path / "prompts.txt"))

    def refused(error: type[Exception], message: str, **changes: Any) -> None:
        with pytest.raises(error, match=message):
            export_for_scorers.main(export_for_scorers.Options(**flags | dict(output=str(tmp_path / "o")) | changes))

    refused(UsageError, "--temperature 0 draws the same picture", temperature=0.0)
    refused(UsageError, "name the benchmark's prompt file", prompts="")
    refused(UsageError, "temperature is -1", temperature=-1.0)
    refused(UsageError, "--samples is -2", samples=-2)
    refused(InputError, "--prompts 'nothing' is no file", prompts="nothing")
    refused(InputError, "is not empty", output=str(tmp_path))
