"""hvd.compression_stats(), SCALECOM_HEALTH_STEPS, SCALECOM_HEALTH_FILE and guards."""

import csv

import pytest


@pytest.mark.parametrize("ranks, period", [(0, 2), (1, 4), (2, 4), (3, 3)])
def test_figures_equal_their_definitions(launch, ranks, period):
    launch(ranks, "programs.health:figures", arguments={"period": period},
           env={"SCALECOM_HEALTH_STEPS": str(period)})


def test_a_guard_makes_unlike_gradients_dense_and_says_so(launch_unchecked):
    outcome = launch_unchecked(2, "programs.health:train", arguments={"guard": 0.3},
                               env={"SCALECOM_HEALTH_STEPS": "1"})
    (stats, travelled, halvings), (_, other_travelled, other_halvings) = outcome.check()
    assert travelled == other_travelled > 1900 and halvings == other_halvings == 5
    assert stats["weight"]["rate"] == 1 and stats["weight"]["halvings"] == 5
    warnings = [line for line in outcome.output.splitlines() if "its guard of 0.3" in line]
    assert len(warnings) == 5 and all("tensor allreduce.weight: " in line for line in warnings)


def test_without_a_guard_the_same_training_keeps_its_rate(launch):
    for stats, travelled, halvings in launch(2, "programs.health:train",
                                             env={"SCALECOM_HEALTH_STEPS": "1"}):
        assert travelled <= 40 and halvings == 0
        assert stats["weight"]["rate"] == 50 and stats["weight"]["hamming_distance"] > 0.3


def test_rank_0_writes_a_line_for_each_sample(tmp_path, launch):
    path = tmp_path / "health.csv"
    env = {"SCALECOM_HEALTH_STEPS": "10", "SCALECOM_HEALTH_FILE": str(path)}
    for _ in range(2):
        (stats, _, _), _ = launch(2, "programs.health:train", env=env)
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["step"] for line in lines] == ["9", "19", "29"] * 2
    assert {line.pop("name") for line in lines} == {"allreduce.weight"}
    for figure, value in stats["weight"].items():
        assert float(lines[-1][figure]) == pytest.approx(value, rel=1e-5), figure


def test_figures_may_be_read_at_any_time(launch):
    assert launch(2, "programs.health:read_while_training",
                  env={"SCALECOM_HEALTH_STEPS": "8"})[0] > 0


@pytest.mark.parametrize("ranks", [0, 2])
def test_a_file_that_cannot_be_written_fails_init_on_every_rank(launch, ranks):
    for message in launch(ranks, "programs.ends:fail_to_init",
                          env={"SCALECOM_HEALTH_FILE": "/nowhere/health.csv"}):
        for part in ("SCALECOM_HEALTH_FILE=/nowhere/health.csv", "No such file"):
            assert part in message, message
