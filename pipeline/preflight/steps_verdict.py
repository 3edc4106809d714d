"""Judges the steps that were run, beside the plan."""

from dataclasses import dataclass

from pipeline.planning.recipe_plan import Device, PlannedStage
from pipeline.preflight.finding import Finding, Verdict, failed, with_unit
from pipeline.preflight.steps import StageReport, StepReport

SUBJECT = "steps"
SLOW = 1.25
"""A step that takes more than this multiple of the planned seconds gives a warning."""


@dataclass(frozen=True)
class PlannedStep:
    """What the plan says of a step.

    Attributes:
        number: number of the stage.
        device: the device that it is planned on.
        ranks: number of ranks.
        peak_bytes: memory of a rank at its fullest moment, without what CUDA itself takes.
    """

    number: int
    device: Device
    ranks: int
    peak_bytes: int

    def seconds(self, flop: float) -> float | None:
        """Returns the planned seconds of a step of `flop` on all ranks; None on CPUs."""
        peak = self.device.peak_flop_per_s
        return flop / (peak * self.device.mfu * self.ranks) if peak else None


def planned_step(planned: PlannedStage, device: Device, ranks: int) -> PlannedStep:
    """Returns what the plan says of the steps of a stage on so many ranks."""
    return PlannedStep(planned.number, device, ranks, planned.memory.peak - planned.memory.runtime)


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
    parts = f"{step.micro_steps} micro-step{'s' if step.micro_steps > 1 else ''}"
    what = f"stage {number}: {' + '.join(step.kinds)}, {parts}, twice"
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
    return Finding(SUBJECT, what, Verdict.FAILED, f"differs: {found}: {found.whose}", "the same", "", remedy, figures)


def _time(step: StepReport, planned: PlannedStep) -> Finding:
    what, seconds = f"stage {planned.number}: time of a step", planned.seconds(step.flop)
    if seconds is None:
        return Finding(SUBJECT, what, Verdict.OK, f"{step.seconds:.3g} s", "no plan on CPUs")
    slow = step.seconds > SLOW * seconds
    peak = planned.device.peak_flop_per_s or 1.0
    mfu = step.flop / (step.seconds * planned.ranks * peak)
    remedy = "the run will take longer than planned: look at the network's findings, or plan with this MFU (--mfu)"
    return Finding(
        SUBJECT,
        what,
        Verdict.WARNING if slow else Verdict.OK,
        f"{step.seconds:.3g} s, MFU {mfu:.2f}",
        f"{seconds:.3g} s, MFU {planned.device.mfu:g} (assumed)",
        remedy=remedy if slow else "",
        figures={"seconds": step.seconds, "planned_seconds": seconds, "mfu": mfu},
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
    remedy = "mend the inputs of the stage first; --only inputs checks them"
    return failed(SUBJECT, f"stage {number}: steps", f"not run: {problem}", remedy)
