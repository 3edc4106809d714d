"""The measurements that a group of workers makes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pipeline.config.tasks import Kind
from pipeline.preflight import network_verdict, steps_verdict
from pipeline.preflight.assumed import Assumed
from pipeline.preflight.finding import Finding
from pipeline.preflight.network import measure_network
from pipeline.preflight.steps import measure_stage
from pipeline.training.stage_run import StageRun

NETWORK_LIMIT_S, STAGE_LIMIT_S = 180.0, 420.0


@dataclass(frozen=True)
class NetworkPart:
    """Links and computing speed.

    Attributes:
        names: the nodes' names by id.
        assumed: what the plan assumes of the links.
    """

    names: Mapping[str, str]
    assumed: Assumed
    name: str = "network"
    is_last: bool = False
    limit_s: float = NETWORK_LIMIT_S

    def run(self, node: str, device: torch.device) -> list[Finding]:
        reports = measure_network(node, device)
        return network_verdict.judge_network(reports, self.names, device.type, self.assumed)


@dataclass(frozen=True)
class StagePart:
    """The steps of one stage.

    Attributes:
        run_of_stage: inputs of the stage.
        kinds: the kinds of samples that the plan has.
        planned: what the plan says of its steps.
    """

    run_of_stage: StageRun
    kinds: frozenset[Kind]
    planned: steps_verdict.PlannedStep
    is_last: bool = True
    limit_s: float = STAGE_LIMIT_S

    @property
    def name(self) -> str:
        return f"steps of stage {self.planned.number}"

    def run(self, node: str, device: torch.device) -> list[Finding]:
        return steps_verdict.judge_stage(measure_stage(self.run_of_stage, self.kinds, device), self.planned)
