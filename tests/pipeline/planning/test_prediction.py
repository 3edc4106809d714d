"""The plan predicts a step from counts and rates: what binds, how it scales, and which settings are best."""

from dataclasses import replace

import pytest

from jobs.recipes import mars_7b
from pipeline.config.gpus import memory_bytes, memory_bytes_per_s
from pipeline.config.machine_types import MACHINE_TYPES, MachineType, machine_type, machine_with
from pipeline.planning.assumed_rates import ENDS
from pipeline.planning.best_settings import SPARE, best_settings
from pipeline.planning.prediction import Prediction, Predictor, Settings


def machine(name: str) -> MachineType:
    found = machine_type(name)
    assert found
    return found


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(mars_7b.recipe(), [1, 2, 3])


@pytest.fixture(scope="module")
def on_64(predictor: Predictor) -> Prediction:
    return predictor.predict(machine("p4de.24xlarge"), 64)


def test_mars_7b_reaches_its_goals_on_64_a100_in_the_middle_of_the_range(on_64: Prediction) -> None:
    assert on_64.fits and on_64.mfu.mid >= 0.45
    assert on_64.a100_gpu_days.mid <= 355  # tokenization takes another 7.2


def test_the_range_goes_from_slow_to_fast_and_days_follow_from_the_mfu(on_64: Prediction) -> None:
    assert on_64.mfu.low < on_64.mfu.mid < on_64.mfu.high < 0.8
    for end in ENDS:
        peak = 312e12 * 86400
        flop = sum(stage.steps * stage.flop for stage in on_64.stages)
        assert on_64.gpu_days.at(end) == pytest.approx(flop / peak / on_64.mfu.at(end))


def test_a_slow_network_is_seen_to_bind(predictor: Predictor) -> None:
    fast, slow = predictor.predict(machine("p4de.24xlarge"), 256), predictor.predict(machine("a2-ultragpu-8g"), 256)
    assert slow.binds == "network" and slow.mfu.mid < fast.mfu.mid / 2


def test_more_gpus_for_the_same_batch_lower_the_mfu(predictor: Predictor) -> None:
    found = [predictor.predict(machine("p4de.24xlarge"), ranks).mfu.mid for ranks in (8, 64, 256)]
    assert found[0] > found[1] > found[2]


def test_days_of_h100_are_stated_in_days_of_a100_by_the_ratio_of_their_peaks(predictor: Predictor) -> None:
    found = predictor.predict(machine("p5.48xlarge"), 64)
    assert found.a100_gpu_days.mid == pytest.approx(found.gpu_days.mid * 989.5 / 312)


def test_recomputing_less_is_predicted_to_be_faster_and_to_take_more_memory(predictor: Predictor) -> None:
    whole = predictor.predict(machine("p4de.24xlarge"), 64, Settings(3, 8, 2, 1))
    half = predictor.predict(machine("p4de.24xlarge"), 64, Settings(3, 8, 2, 2))
    assert half.mfu.mid > whole.mfu.mid * 1.05
    assert half.stages[0].peak_bytes > whole.stages[0].peak_bytes


def test_without_the_copy_in_each_node_a_slow_network_costs_more(predictor: Predictor) -> None:
    with_copy = predictor.predict(machine("a2-ultragpu-8g"), 64, Settings(3, 8, 2, 1))
    without = predictor.predict(machine("a2-ultragpu-8g"), 64, Settings(3, 1, 2, 1))
    assert without.stages[0].mid.seconds > with_copy.stages[0].mid.seconds * 1.1


@pytest.mark.slow
def test_the_best_settings_leave_memory_free_and_beat_the_recipes(predictor: Predictor, on_64: Prediction) -> None:
    best = best_settings(predictor, machine("p4de.24xlarge"), 64)
    assert best and best.prediction.mfu.mid >= on_64.mfu.mid
    peak = max(stage.peak_bytes for stage in best.prediction.stages)
    assert peak <= (1 - SPARE) * best.prediction.memory_bytes


def test_a_larger_batch_is_named_where_it_helps_much(predictor: Predictor) -> None:
    best = best_settings(predictor, machine("a2-ultragpu-8g"), 256)
    assert best and best.larger_batch and best.larger_batch.settings.batch_factor > 1
    assert best.larger_batch.prediction.mfu.mid > best.prediction.mfu.mid * 1.05


def test_every_machine_has_gpus_whose_rates_are_known() -> None:
    for each in MACHINE_TYPES:
        assert memory_bytes(each.gpu) and memory_bytes_per_s(each.gpu), each
    assert machine_with("A100-80GB") == machine("p4de.24xlarge") and machine_with("L4") is None


def test_another_stage_of_zero_changes_what_is_moved(predictor: Predictor) -> None:
    zero_2 = predictor.predict(machine("p4de.24xlarge"), 64, Settings(2, 1, 2, 1)).stages[0].mid
    zero_3 = predictor.predict(machine("p4de.24xlarge"), 64, Settings(3, 8, 2, 1)).stages[0].mid
    assert zero_2.seconds != zero_3.seconds


def test_settings_keep_the_samples_of_a_stage() -> None:
    stage = mars_7b.recipe().stages[0]
    larger = Settings(3, 8, 2, 1, batch_factor=4).stage_of(stage)
    assert larger.steps * larger.global_batch_size == pytest.approx(stage.steps * stage.global_batch_size, rel=1e-4)
    assert replace(larger, steps=stage.steps, global_batch_size=2048, checkpoint_every_layers=2) == replace(
        stage, checkpoint_every_layers=2
    )
