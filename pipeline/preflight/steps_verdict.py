"""Judges the steps that were run, beside the plan."""

from dataclasses import dataclass

from pipeline.planning.assumed_rates import Range
from pipeline.planning.recipe_plan import Device, PlannedStage
from pipeline.preflight.finding import Finding, Verdict, count_of, failed, with_unit
from pipeline.preflight.steps import StageReport, StepReport

SUBJECT = "steps"


@dataclass(frozen=True)
class PlannedStep:
    """The plan's figures of a step.

    Attributes:
        number: number of the stage.
        device: the device that it is planned on.
        ranks: number of ranks.
        seconds: predicted seconds of a step; its `low` is the slowest case. None if nothing is predicted.
        peak_bytes: memory of a rank at its fullest moment, without what CUDA itself takes.
    """

    number: int
    device: Device
    ranks: int
    seconds: Range | None
    peak_bytes: int


def planned_step(planned: PlannedStage, device: Device, ranks: int, seconds: Range | None) -> PlannedStep:
    """Returns what the plan says of the steps of a stage on so many ranks, with the predicted `seconds`."""
    return PlannedStep(planned.number, device, ranks, seconds, planned.memory.peak - planned.memory.runtime)


def judge_stage(report: StageReport, planned: PlannedStep) -> list[Finding]:
    """Judges the steps of one stage."""
    findings = [_compared(step, planned.number) for step in report.steps]
    findings += [_time(report.steps[0], planned), _memory(report, planned)]
    for kind in report.missing:
        remedy = "its rows are rare or missing in the tokens; look at `where` and at the shares"
        said = "no sample in the first steps"
        findings.append(
            Finding(SUBJECT, f"stage {planned.number}: {kind}", Verdict.WARNING, said, "a sample", "", remedy)
        )
    return findings


def _compared(step: StepReport, number: int) -> Finding:
    what = f"stage {number}: {' + '.join(step.kinds)}, {count_of(step.micro_steps, 'micro-step')}, twice"
    found = step.comparison
    figures = {
        "seconds": step.seconds,
        "gradient_norms": list(found.gradient_norms),
        "losses_difference": found.losses,
        "moments_difference": found.moments,
        "flop": step.flop,
        "peak_bytes": step.peak_bytes,
    }
    if step.is_tolerated:
        alike = "the same, bit for bit" if found.is_same else f"as alike as GPU kernels are ({found})"
        return Finding(SUBJECT, what, Verdict.OK, f"{alike}; {step.seconds:.3g} s", figures=figures)
    remedy = "a device or its memory computes wrongly: test the nodes of the ranks that are named, or leave them out"
    return Finding(
        SUBJECT, what, Verdict.FAILED, f"differs: {found}: {found.differing_ranks}", "the same", "", remedy, figures
    )


def _time(step: StepReport, planned: PlannedStep) -> Finding:
    what, peak, predicted = f"stage {planned.number}: time of a step", planned.device.peak_flop_per_s, planned.seconds
    mfu = step.flop / (step.seconds * planned.ranks * peak) if peak else None
    measured = f"{step.seconds:.3g} s" + (f", MFU {mfu:.2f}" if mfu is not None else "")
    figures = {"seconds": step.seconds, "mfu": mfu}
    if predicted is None:
        return Finding(SUBJECT, what, Verdict.OK, measured, "nothing predicted", figures=figures)
    slow = step.seconds > predicted.low
    return Finding(
        SUBJECT,
        what,
        Verdict.WARNING if slow else Verdict.OK,
        measured,
        f"{predicted.high:.3g} to {predicted.low:.3g} s predicted",
        remedy="the run will take longer than predicted: look at the network's findings above" if slow else "",
        figures=figures | {"predicted_fastest_s": predicted.high, "predicted_slowest_s": predicted.low},
    )


def _memory(report: StageReport, planned: PlannedStep) -> Finding:
    peak = max(step.peak_bytes for step in report.steps)
    on_gpu = planned.device.memory_bytes is not None
    over = on_gpu and peak > planned.peak_bytes
    remedy = "the plan is too low for these rows; watch memory in the first steps, or lower micro_batch_size"
    return Finding(
        SUBJECT,
        f"stage {planned.number}: memory of a {'GPU' if on_gpu else 'process'}",
        Verdict.WARNING if over else Verdict.OK,
        with_unit(peak, "B"),
        f"{with_unit(planned.peak_bytes, 'B')} planned",
        remedy=remedy if over else "",
        figures={"peak_bytes": peak, "planned_bytes": planned.peak_bytes},
    )


def stage_failed(number: int, problem: str) -> Finding:
    """Returns the finding for a stage whose inputs do not fit."""
    remedy = "correct the inputs of the stage first; --only inputs checks them"
    return failed(SUBJECT, f"stage {number}: steps", f"not run: {problem}", remedy)
