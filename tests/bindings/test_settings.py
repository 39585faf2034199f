"""Settings from the environment: parsed strictly, named in errors, and the same on all ranks."""

import os

import pytest


@pytest.mark.parametrize("ranks", [0, 2])
@pytest.mark.parametrize("variable, value, allowed", [
    ("SCALECOM_FUSION_THRESHOLD", "64MB", "0 to"),
    ("SCALECOM_CYCLE_TIME", "-1", "adaptive"),
    ("HOROVOD_CYCLE_TIME", "soon", "adaptive"),
    ("SCALECOM_LOG_LEVEL", "loud", "warning"),
    ("SCALECOM_ALLREDUCE_ALGORITHM", "fastest", "ring"),
    ("SCALECOM_STALL_CHECK_DISABLE", "maybe", "0, 1"),
    ("HOROVOD_AUTOTUNE", "2", "0, 1"),
    ("SCALECOM_TUNE", "bogus", "off, quick, full"),
])
def test_a_bad_value_fails_init_with_its_name(launch, ranks, variable, value, allowed):
    for message in launch(ranks, "programs.ends:fail_to_init", env={variable: value}):
        assert message is not None
        for part in (variable, value, allowed):
            assert part in message, message


def test_a_bad_value_that_is_no_utf8_fails_init_with_its_name(launch):
    for message in launch(2, "programs.ends:fail_to_init", env={"SCALECOM_MODE": "g\udcfcnstig"}):
        assert "SCALECOM_MODE=g\ufffdnstig is not allowed; allowed: cyclic" in message, message


def _fail_to_init(launch, tmp_path, shell):
    """What two ranks say whose environment a line of shell has changed, which knows the rank."""
    launcher = tmp_path / "rank_program"
    launcher.write_text(f"#!/bin/sh\n{shell}\nexec \"$@\"\n")
    launcher.chmod(0o755)
    return launch(2, "programs.ends:fail_to_init", wrapper=[str(launcher)])


def test_values_that_differ_between_ranks_fail_init(tmp_path, launch):
    shell = "export SCALECOM_CACHE_CAPACITY=$((100 + OMPI_COMM_WORLD_RANK))"
    for message in _fail_to_init(launch, tmp_path, shell):
        for part in ("SCALECOM_CACHE_CAPACITY", "100 on rank 0", "101 on rank 1"):
            assert part in message, message


def test_what_one_rank_cannot_load_fails_init_on_all(tmp_path, launch):
    shell = "[ $OMPI_COMM_WORLD_RANK = 1 ] && export SCALECOM_NCCL_LIBRARY=/x.so"
    for message in _fail_to_init(launch, tmp_path, shell):
        assert "rank 1: SCALECOM_NCCL_LIBRARY is /x.so" in message, message


def test_scalecoms_variables_come_before_horovods(launch):
    env = {"SCALECOM_CYCLE_TIME": "2", "HOROVOD_CYCLE_TIME": "7",
           "HOROVOD_CACHE_CAPACITY": "33"}
    settings = launch(0, "programs.ends:show_settings", env=env)[0]
    assert settings["SCALECOM_CYCLE_TIME"] == ["2", "SCALECOM_CYCLE_TIME"]
    assert settings["SCALECOM_CACHE_CAPACITY"] == ["33", "HOROVOD_CACHE_CAPACITY"]
    assert settings["SCALECOM_FUSION_THRESHOLD"][1] == "default"


def test_settings_without_effect_and_misspelt_ones_are_said_once_a_host(launch_unchecked):
    outcome = launch_unchecked(2, "programs.ends:show_settings",
                               env={"HOROVOD_THREAD_AFFINITY": "1,2", "SCALECOM_MDOE": "cyclic"})
    outcome.check()
    for text in ("HOROVOD_THREAD_AFFINITY is set, but has no effect", "SCALECOM_MODE is one"):
        assert outcome.output.count(text) == 1, outcome.output


@pytest.mark.parametrize("folder", ["cache", "of M\udcfcller"])
def test_the_second_start_finds_what_the_first_one_measured_and_all_ranks_have_it(
        tmp_path, launch, folder):
    environment = {"XDG_CACHE_HOME": str(tmp_path / folder)}
    first = launch(2, "programs.tuning:show", env=environment)
    second = launch(2, "programs.tuning:show", env=environment)
    assert first[0] == first[1] and second[0] == second[1]
    assert first[0][0] == "measured now"
    files = list((tmp_path / folder / "scalecom").iterdir())
    assert second[0] == [f"file {os.fsencode(files[0]).decode(errors='replace')}", first[0][1]]
    assert len(files) == 1


def test_what_is_tuned_while_a_job_runs_is_in_the_log_and_the_same_on_all_ranks(tmp_path, launch):
    log = tmp_path / "log.csv"
    environment = {"HOROVOD_AUTOTUNE": "1", "HOROVOD_AUTOTUNE_LOG": str(log),
                   "HOROVOD_CYCLE_TIME": "0.5", "HOROVOD_AUTOTUNE_WARMUP_SAMPLES": "0",
                   "HOROVOD_AUTOTUNE_STEPS_PER_SAMPLE": "1", "SCALECOM_STEADY_STEPS": "1",
                   "HOROVOD_AUTOTUNE_BAYES_OPT_MAX_SAMPLES": "3"}
    settings = launch(2, "programs.tuning:autotune", env=environment, arguments={"steps": 80})
    assert settings[0] == settings[1]
    lines = [line.split(",") for line in log.read_text().splitlines()]
    assert [line[1] for line in lines[1:5]] == ["search"] * 3 + [lines[4][1]]
    assert {line[3] for line in lines[1:]} == {"0.5"}
    assert len({line[2] for line in lines[1:]}) >= 3
    assert lines[-1][1] == "kept"
    assert settings[0]["SCALECOM_FUSION_THRESHOLD"] == [lines[-1][2], "autotune"]
    assert settings[0]["SCALECOM_CYCLE_TIME"] == ["0.5", "HOROVOD_CYCLE_TIME"]
