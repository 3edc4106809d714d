"""A driver that holds two CPUs of a cluster and keeps a ledger. The ledger's tests start and kill it."""

import os
import sys
import time

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from pipeline.ledger.account import DayLimits
from pipeline.ledger.actor import keep_ledger, new_attempt
from pipeline.step_figures import StepFigures

STEP_S = 0.5


def main(place: str, stage: str, seconds: float) -> None:
    ray.init(log_to_driver=False)
    attempt = new_attempt(place, "run", "train_stage", stage, "CPU", DayLimits())
    with keep_ledger(place, attempt, 1.0, []) as ledger:
        group = placement_group([{"CPU": 1.0}] * 2)
        assert group.wait(60)
        print(ray.get(ledger.__ray_call__.remote(lambda _: os.getpid())), flush=True)
        ends, step = time.monotonic() + seconds, 0
        while time.monotonic() < ends:
            time.sleep(STEP_S)
            step += 1
            figures = StepFigures(step=step, step_s=STEP_S, data_wait_s=0.1, samples=8, tokens=80, flop=1e9)
            ledger.train_step.remote(figures)
        remove_placement_group(group)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
