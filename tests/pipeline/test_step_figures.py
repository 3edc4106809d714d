"""A step's figures keep their names in a run's folder, and the lines of earlier versions stay readable."""

import json
from pathlib import Path

from pipeline.launch.monitor import summary_line
from pipeline.step_figures import (
    METRICS_FILE,
    VALIDATION_FILE,
    CheckpointStall,
    StepFigures,
    Validation,
    read_step_figures,
)

LINE = {
    "loss/text_to_image": 3.5,
    "loss/captioning": 5.25,
    "gradient_norm": 1.0,
    "step": 4,
    "learning_rate": 0.001,
    "samples": 8,
    "tokens": 345,
    "padding_fraction": 0.125,
    "flop": 3e9,
    "update_s": 0.25,
    "flop/text_to_image": 1e9,
    "flop/captioning": 2e9,
    "forward_s/text_to_image": 0.5,
    "forward_s/captioning": 0.75,
    "step_s": 2.0,
    "data_wait_s": 0.5,
    "skipped_steps": 1,
    "mfu": 0.25,
    "validation/captioning/en/bits_a_caption_byte": 4.5,
    "checkpoint_stall_s": 0.125,
    "checkpoint_stall_share": 0.0625,
    "between_steps_s": 1.5,
}


def test_a_line_is_read_and_written_with_the_same_names_in_the_same_order() -> None:
    figures = StepFigures.from_json(LINE)
    assert json.dumps(figures.to_json()) == json.dumps(LINE)
    assert figures.losses == {"text_to_image": 3.5, "captioning": 5.25}
    assert figures.validation == {"captioning/en/bits_a_caption_byte": 4.5}
    assert figures.checkpoint == CheckpointStall(0.125, share=0.0625)


def test_what_was_not_measured_has_no_name_in_the_line() -> None:
    names = StepFigures(step=1, step_s=2.0).to_json().keys()
    assert not names & {"mfu", "gradient_norm", "checkpoint_stall_s", "checkpoint_stall_share"}


def test_torn_lines_and_lines_of_earlier_versions_are_read(tmp_path: Path) -> None:
    text = '{"step": 1, "loss/captioning": 2, "seconds": 3}\n{"step": 2, "loss/captioning": 1.5}\n{"step": 3, "lo'
    (tmp_path / METRICS_FILE).write_text(text)
    read = read_step_figures(tmp_path)
    assert [(figures.step, figures.losses, figures.step_s) for figures in read] == [
        (1, {"captioning": 2}, 0.0),
        (2, {"captioning": 1.5}, 0.0),
    ]
    assert read_step_figures(tmp_path / "missing") == []


def test_what_was_validated_beside_the_training_is_a_figure_of_its_step(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\n{"step": 2, "validation/a": 3.0}\n{"step": 3}\n')
    drawn, later = (
        Validation(2, "step-00000002-0123abcd", {}, 1.0),
        Validation(3, "step-00000003-0123abcd", {"a": 2.5}, 1.0),
    )
    lines = [json.dumps(each.to_json()) for each in (drawn, later)]
    (tmp_path / VALIDATION_FILE).write_text("\n".join([*lines, '{"step": 4, "ch']))
    assert [figures.validation for figures in read_step_figures(tmp_path)] == [{}, {"a": 3.0}, {"a": 2.5}]


def test_the_summary_takes_means_over_the_steps_that_have_a_figure() -> None:
    first = StepFigures(step=3, losses={"captioning": 2.0}, tokens=100, step_s=1.0, data_wait_s=0.5)
    second = StepFigures(
        step=4,
        losses={"captioning": 4.0, "opener": 1.0},
        tokens=200,
        step_s=2.0,
        skipped_steps=2,
        mfu=0.25,
        checkpoint=CheckpointStall(0.5, share=0.125),
    )
    assert summary_line([first, second], 10) == (
        "step 4/10  captioning 3.000  opener 1.000  100 tokens/s  1.50 s/step  MFU 0.25  2 steps skipped  "
        "waits for data 16.7%  for checkpoints 12.5%"
    )
