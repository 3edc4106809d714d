"""The budget's report, forecast, limits and plan agree with the ledger and the recipe."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.budget import Plan, Report, plan, report
from jobs.common.exit_codes import ExitCode, exit_code_of
from jobs.common.recipes import load_recipe
from pipeline.budget.forecast import forecast, planned_work
from pipeline.budget.limits import given_limits, limits_of
from pipeline.budget.spending import spending
from pipeline.config.units import SECONDS_PER_DAY
from pipeline.errors import BudgetError, UsageError
from pipeline.ledger.account import Account, Attempt, DevicesNow
from pipeline.ledger.limits import LimitWatch, Spent
from pipeline.ledger.rows import RowWriter
from pipeline.ledger.table import read_ledger
from pipeline.planning.flops import encoder_flop_of
from pipeline.planning.recipe_plan import plan_recipe
from pipeline.planning.work import StageWork
from pipeline.runs.paths import run_paths
from pipeline.step_figures import StepFigures
from tests.support.browser import check_page
from tokenization.config.vqgan import OPEN_MUSE

STEP_S, WAIT_S, START_S = 10.0, 1.0, 60.0


class Run:
    """Writes a ledger as a job would, on clocks that jump ahead."""

    def __init__(
        self, place: Path | str, device: str = "GPU", model: str = "A100", devices: int = 8, recipe: str = "mars_1b"
    ) -> None:
        self.place, self.device, self.held = str(place), device, DevicesNow(devices, model)
        self.recipe, self.now, self.number = recipe, 1000.0, 0

    def clock(self) -> float:
        return self.now

    def attempt(self, job: str = "train_stage", stage: str = "1", **limits: Any) -> Account:
        self.number += 1
        name = f"{job}-{stage}-{self.number}"
        attempt = Attempt(name, self.number, self.recipe, job, stage, self.device, **limits)
        account = Account(attempt, monotonic=self.clock, wall=lambda: self.now + 1.7e9)
        account.record_devices(self.held)
        return account

    def passes(self, account: Account, seconds: float) -> None:
        self.now += seconds
        account.record_devices(self.held)

    def train(
        self,
        account: Account,
        first: int,
        last: int,
        flop: float = 1e15,
        save_every: int = 5,
        step_s: float = STEP_S,
        **more: Any,
    ) -> None:
        for number in range(first, last + 1):
            stall = {"checkpoint_stall_s": 2.0} if number > first and (number - 1) % save_every == 0 else {}
            self.passes(account, step_s + stall.get("checkpoint_stall_s", 0.0))
            figures = {
                "step": number,
                "step_s": step_s,
                "data_wait_s": WAIT_S,
                "samples": 8,
                "tokens": 80,
                "flop": flop,
            }
            account.train_step(StepFigures.from_json(figures | stall | more))

    def write(self, account: Account, event: str) -> None:
        RowWriter(self.place, account.attempt.attempt).write(account.row(event))


def test_steps_that_were_done_again_are_lost_and_the_rest_is_told_apart(tmp_path: Path) -> None:
    run = Run(tmp_path)
    first = run.attempt()
    run.passes(first, START_S)
    run.train(first, 1, 13)
    run.passes(first, 4)
    run.write(first, "end: killed")
    second = run.attempt()
    run.passes(second, START_S)
    run.train(second, 11, 20)
    run.passes(second, 3)
    run.write(second, "end: done")
    third = run.attempt(stage="2")
    run.passes(third, 30)
    run.write(third, "heartbeat")
    table = read_ledger(tmp_path).table
    spent = spending(table, heartbeat_s=10, now=run.now + 1.7e9 + 1000).set_index("attempt")
    seconds = spent.drop(columns=["job", "stage", "gpu_model", "outcome"]) * SECONDS_PER_DAY / 8
    kept = 10 * (STEP_S - WAIT_S)
    assert seconds.loc["train_stage-1-1", "lost to failures"] == pytest.approx(3 * (STEP_S - WAIT_S) + 4)
    assert seconds.loc["train_stage-1-1", "productive"] == pytest.approx(kept)
    assert seconds.loc["train_stage-1-1", "checkpointing"] == pytest.approx(4)
    others = [seconds.loc["train_stage-1-2", part] for part in ("starting", "idle", "waiting for data")]
    assert others == pytest.approx([60, 3, 10])
    assert seconds.loc["train_stage-1-2", "lost to failures"] == 0
    assert spent.loc["train_stage-2-3", "outcome"] == "killed", "it fell silent"
    assert seconds.loc["train_stage-2-3", "lost to failures"] == pytest.approx(30), "it did no step"
    parts = spent[["productive", "lost to failures", "waiting for data", "checkpointing", "starting", "idle"]]
    assert parts.sum(axis=1).tolist() == pytest.approx(spent["gpu_days"].tolist())


@pytest.mark.slow
def test_a_report_says_it_all_and_its_page_shows_it_on_a_phone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe("mars_1b")
    run = Run(tmp_path / "mars_1b" / "ledger", model="H100")
    account = run.attempt(run_budget_gpu_days=1.0)
    run.passes(account, START_S)
    run.train(account, 1, 60)
    run.write(account, "heartbeat")
    figures = report(Report(recipe="mars_1b", root=str(tmp_path)))
    days = 8 * (START_S + 60 * STEP_S + 11 * 2) / SECONDS_PER_DAY
    assert figures["gpu_days"] == pytest.approx(days) and figures["share_of_budget"] == pytest.approx(days)
    assert figures["a100_gpu_days"] == pytest.approx(days * 989.5 / 312)
    assert "3.17 A100 days a day" in figures["a100_conversion"]["H100"]
    assert set(figures["beside"].values()) >= {6250, 587, 675, 549}
    assert sum(figures["by_category"].values()) == pytest.approx(days)
    for key in ("by_job", "by_stage", "by_attempt", "by_gpu_model"):
        assert figures[key][0]["gpu_days"] == pytest.approx(days), key
    assert figures["forecast"]["gpu_days"] > days and figures["forecast"]["low"] < figures["forecast"]["high"]
    shown = capsys.readouterr().out
    assert "lost to failures" in shown and "published: MARS (its paper)" in shown
    check_page(tmp_path / "mars_1b" / "budget.html", "budget", num_pictures=3)
    assert recipe.name in (tmp_path / "mars_1b" / "budget.html").read_text()


def test_a_gpu_that_is_not_known_is_asked_for_and_never_guessed(tmp_path: Path) -> None:
    run = Run(tmp_path / "mars_1b" / "ledger", model="unknown")
    account = run.attempt()
    run.passes(account, 100)
    run.write(account, "end: done")
    with pytest.raises(UsageError, match=r"'unknown' in the ledger .*--gpu-model 'unknown=A100'"):
        report(Report(recipe="mars_1b", root=str(tmp_path)))
    with pytest.raises(UsageError, match="--gpu-model 'A100': write NAME=MODEL"):
        report(Report(recipe="mars_1b", root=str(tmp_path), gpu_model=("A100",)))
    figures = report(Report(recipe="mars_1b", root=str(tmp_path), gpu_model=("unknown=A100-80GB",)))
    assert figures["a100_gpu_days"] == pytest.approx(figures["gpu_days"])


def step_of(work: StageWork) -> tuple[float, dict[str, Any]]:
    """Seconds of a step whose captions' FLOP cost three times as much as others', and its figures by kind."""
    flop = {kind.kind.name.lower(): kind.samples * kind.flop.total for kind in work.kinds}
    forward = {kind: amount * (3e-15 if kind == "captioning" else 1e-15) for kind, amount in flop.items()}
    figures = {f"flop/{kind}": amount for kind, amount in flop.items()}
    figures |= {f"forward_s/{kind}": seconds for kind, seconds in forward.items()}
    return 3 * sum(forward.values()) + 2.0, figures | {"update_s": 2.0}


def test_after_a_fifth_the_forecast_is_within_a_tenth_of_the_end(tmp_path: Path) -> None:
    """The ledger has failures, and two stages that have not begun, whose FLOP are cheaper."""
    recipe = load_recipe("mars_1b", ("stages.0.steps=200", "stages.1.steps=40", "stages.2.steps=60"))
    works = planned_work(recipe)
    prices = [step_of(work)[0] / sum(kind.samples * kind.flop.total for kind in work.kinds) for work in works]
    assert prices[0] > 1.2 * prices[2], "one price for all would not do"
    run, now = Run(tmp_path), None
    for number, (stage, work) in enumerate(zip(recipe.stages, works, strict=True), start=1):
        step_s, figures = step_of(work)
        done = 0
        while done < stage.steps:
            account = run.attempt(stage=str(number))
            run.passes(account, START_S)
            last = min(done + 70, stage.steps)
            for until in range(done + 1, last + 1):
                slow_s = 2 * step_s if until == done + 1 else step_s  # an attempt's first step
                run.train(account, until, until, work.flop / stage.steps, step_s=slow_s, **figures)
                if number == 1 and until == 120 and now is None:
                    run.write(account, "heartbeat")
                    now = forecast(recipe, read_ledger(tmp_path).table, 8)
                if number == 2 and until == 1:
                    run.write(account, "heartbeat")
                    early = forecast(recipe, read_ledger(tmp_path).table, 8)
            done = last if last == stage.steps else last - last % 5
            run.write(account, "end: done" if done == stage.steps else "end: killed")
    end = read_ledger(tmp_path).table["gpu_days"].sum()
    assert now and now.left_gpu_days > 0.6 * end, "not much more than a fifth was done"
    assert now.gpu_days == pytest.approx(end, rel=0.1) and now.low < end < now.high
    assert early and early.gpu_days == pytest.approx(end, rel=0.1), "one slow step says little of a stage"


def test_limits_warn_at_80_and_95_percent_and_stop_at_100() -> None:
    watch = LimitWatch(Attempt("a", 1, "run", "train_stage", "2", "GPU", 10.0, 100.0))
    told = [watch.check(Spent(days, days, days + 20)) for days in (7.9, 8.1, 8.5, 9.6, 9.9, 10.0)]
    warnings = [warning for lines, _ in told for warning in lines]
    assert (
        len(warnings) == 2 and "stage 2 has used 8.1 of its 10 GPU-days (81%)" in warnings[0] and "96%" in warnings[1]
    )
    assert [bool(stop) for _, stop in told] == [False] * 5 + [True]
    assert "--budget-gpu-days stage=DAYS" in told[-1][1]
    of_run = LimitWatch(Attempt("a", 1, "run", "train_stage", "2", "GPU", 0.0, 100.0))
    assert of_run.check(Spent(1, 1, 100))[1].startswith("run 'run' has used 100 of its 100")


def test_a_spent_limit_is_remembered_and_refused_until_it_is_raised(tmp_path: Path) -> None:
    paths = run_paths(str(tmp_path), load_recipe("mars_1b"))
    run = Run(paths.ledger)
    account = run.attempt(budget_gpu_days=0.01, run_budget_gpu_days=0.5)
    run.passes(account, 0.011 * SECONDS_PER_DAY / 8)
    run.write(account, "end: failed")
    for given in ({}, {"stage": 0.01}):
        with pytest.raises(BudgetError, match=r"stage 1 has used 0.011 of its 0.01 GPU-days; .*stage=DAYS") as refused:
            limits_of(paths, 1, given)
        assert exit_code_of(refused.value) is ExitCode.BUDGET
    assert limits_of(paths, 1, {"stage": 0.02}).stage_gpu_days == 0.02
    assert limits_of(paths, 1, {"stage": 0.0}).run_gpu_days == 0.5, "the run's is another one"
    assert limits_of(paths, 2, {}).stage_gpu_days == 0, "and so is another stage's"
    with pytest.raises(BudgetError, match="run 'mars_1b' has used"):
        limits_of(paths, 2, {"run": 0.0105})


@pytest.mark.parametrize("word", ["many", "week=3", "-1", "nan", "run="])
def test_a_limit_that_is_none_is_refused_with_the_form(word: str) -> None:
    with pytest.raises(UsageError, match="write the days that the stage may take"):
        given_limits((word,))


def test_a_limit_is_of_the_stage_or_of_the_run() -> None:
    assert given_limits(("300", "run=587")) == {"stage": 300, "run": 587}
    with pytest.raises(UsageError, match="two limits, 300 and 200"):
        given_limits(("300", "stage=200"))


def test_the_plan_of_the_papers_model_has_every_factor_and_its_flop_are_the_dry_runs(tmp_path: Path) -> None:
    figures = plan(Plan(recipe="mars_7b", gpu="A100-80GB", mfu=0.5, price_per_gpu_hour=2.0))
    dry = plan_recipe(load_recipe("mars_7b"), [1, 2, 3], "A100-80GB", 0.5)
    assert figures["training_gpu_days"] == pytest.approx(dry.device.days(dry.flop))
    assert figures["assumed"] is True and "assumed" in figures["factors"]["mfu"]["source"]
    assert figures["a100_gpu_days"] == pytest.approx(
        figures["tokenization"]["a100_gpu_days"] + sum(stage["a100_gpu_days"] for stage in figures["stages"])
    )
    for part in (figures, *figures["stages"]):
        assert part["share_of_sd15"] == pytest.approx(part["a100_gpu_days"] / 6250)
        assert part["share_of_paper"] == pytest.approx(part["a100_gpu_days"] / 587)
    assert figures["tokenization"]["gpu_days"] > 1 and all(stage["checkpoints"] > 0 for stage in figures["stages"])
    assert figures["price"] == pytest.approx(figures["gpu_days"] * 48)
    assert figures["moves_most"] == "MFU -10%" and figures["sensitivities"]["price +10%"]["money"] == 0.1
    on_h100 = plan(Plan(recipe="mars_7b", gpu="H100", mfu=0.5))
    assert on_h100["a100_gpu_days"] == pytest.approx(figures["a100_gpu_days"], rel=0.01)
    assert on_h100["gpu_days"] < figures["gpu_days"] / 3


def test_the_encoders_flop_are_those_that_were_counted_of_open_muse() -> None:
    assert encoder_flop_of(OPEN_MUSE, 256) == pytest.approx(216e9, rel=0.01)


def test_a_plan_takes_the_benchmarks_rate_and_refuses_one_of_another_device(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    measured = {"device": "NVIDIA H100 80GB HBM3", "flop_per_step": 4e14, "step_s": 1.0}
    file.write_text("said before\n" + json.dumps(measured))
    figures = plan(Plan(recipe="mars_7b", benchmark=(str(file),)))
    assert figures["assumed"] is False and figures["device"] == "NVIDIA H100 80GB HBM3"
    assert figures["factors"]["mfu"]["value"] == pytest.approx(400 / 989.5)
    with pytest.raises(UsageError, match="the rates were measured on NVIDIA H100"):
        plan(Plan(recipe="mars_7b", gpu="A100-80GB", benchmark=(str(file),)))
    with pytest.raises(UsageError, match="--mfu is assumed, --benchmark is measured"):
        plan(Plan(recipe="mars_7b", mfu=0.4, benchmark=(str(file),)))
    with pytest.raises(UsageError, match="trains on CPUs, which have no stated peak"):
        plan(Plan(recipe="demo"))
    with pytest.raises(UsageError, match="no such file or ledger"):
        plan(Plan(benchmark=("/no/such/file",)))
    file.write_text("[1, 2")
    with pytest.raises(UsageError, match="its last line is no JSON object"):
        plan(Plan(benchmark=(str(file),)))


def test_the_plan_with_a_runs_measured_rates_meets_its_ledger_within_a_tenth(tmp_path: Path) -> None:
    recipe = load_recipe("mars_1b", ("stages.0.steps=30", "stages.1.steps=10", "stages.2.steps=10"))
    overrides = ("stages.0.steps=30", "stages.1.steps=10", "stages.2.steps=10", "plan.pictures=5000")
    run = Run(tmp_path)
    tokens = run.attempt("tokenize", "")
    tokens.working()
    run.passes(tokens, 500)
    tokens.add(samples=5000)
    run.write(tokens, "end: done")
    for number, (stage, flop) in enumerate(
        zip(recipe.stages, [work.flop for work in planned_work(recipe)], strict=True), start=1
    ):
        account = run.attempt(stage=str(number))
        run.passes(account, START_S)
        run.train(account, 1, stage.steps, flop / stage.steps)
        run.write(account, "end: done")
    figures = plan(Plan(recipe="mars_1b", gpu="A100-80GB", set=overrides, benchmark=(str(tmp_path),)))
    assert figures["gpu_days"] == pytest.approx(read_ledger(tmp_path).table["gpu_days"].sum(), rel=0.1)
    assert figures["tokenization"]["gpu_days"] == pytest.approx(8 * 500 / SECONDS_PER_DAY)
