"""SCALECOM_TIMELINE, hvd.start_timeline() and hvd.stop_timeline(): the files that they write."""

import collections
import json

import pytest

NEGOTIATED = ["NEGOTIATE_ALLREDUCE", "ALLREDUCE", "QUEUE"]


def rows(path, is_killed=False):
    """{tensor: names of its spans, in their order}, {tensor: names of its instants}"""
    text = path.read_text()
    if is_killed and not text.rstrip().endswith("]"):  # It was on its way to the next page.
        text += "]"
    events = json.loads(text)
    tensors = {event["tid"]: event["args"]["name"] for event in events
               if event["name"] == "thread_name"}
    spans, instants = collections.defaultdict(list), collections.defaultdict(list)
    for event in sorted((event for event in events if event["ph"] in "Xi"),
                        key=lambda event: (event["ts"], -event.get("dur", 0))):
        (spans if event["ph"] == "X" else instants)[tensors[event["tid"]]].append(event["name"])
    return dict(spans), dict(instants)


@pytest.mark.parametrize("ranks", [0, 2])
@pytest.mark.parametrize("prefix", ["SCALECOM", "HOROVOD"])
def test_rank_0_writes_what_the_environment_says(launch, tmp_path, ranks, prefix):
    path = tmp_path / "timeline.json"
    launch(ranks, "programs.timeline:train", env={f"{prefix}_TIMELINE": str(path),
                                                  f"{prefix}_TIMELINE_MARK_CYCLES": "1"})
    spans, instants = rows(path)
    assert spans["allreduce.dense"][:3] == NEGOTIATED
    assert spans["allreduce.dense"].count("MPI_ALLREDUCE") == 3
    assert spans["allreduce.compressed"] == 3 * [
        *NEGOTIATED, "SELECT", "INDEX_EXCHANGE", "RESIDUAL_UPDATE", "VALUES_ALLREDUCE",
        "WRITE_RESULT"]
    assert spans["scalecom.join"] == ["JOIN"]
    assert set(instants["allreduce.dense"]) == {str(rank) for rank in range(max(ranks, 1))}
    assert instants["cycles"].count("CYCLE_START") >= 6


def test_each_rank_writes_its_own_where_the_path_says_so(launch, tmp_path):
    launch(2, "programs.timeline:train",
           env={"SCALECOM_TIMELINE": str(tmp_path / "timeline-{rank}.json")})
    for rank in range(2):
        events = json.loads((tmp_path / f"timeline-{rank}.json").read_text())
        assert events[0]["args"]["name"] == f"scalecom rank {rank} of 2"
        assert {event["pid"] for event in events} == {rank}
        assert not any(event["name"] == "CYCLE_START" for event in events)


@pytest.mark.parametrize("ranks", [0, 2])
def test_timelines_are_started_and_stopped(launch, tmp_path, ranks):
    launch(ranks, "programs.timeline:start_and_stop", arguments={"folder": str(tmp_path)},
           env={"SCALECOM_TIMELINE": "DYNAMIC"})
    first, first_instants = rows(tmp_path / "first.json")
    second, second_instants = rows(tmp_path / "second.json")
    assert set(first) == {"allreduce.one"} and "CYCLE_START" in first_instants["cycles"]
    assert set(second) == {"allreduce.three", "barrier.scalecom[barrier()]"}
    assert "cycles" not in second_instants
    assert not (tmp_path / "early.json").exists()


@pytest.mark.parametrize("prefix", ["SCALECOM", "HOROVOD"])
def test_a_path_that_cannot_be_written_fails_init(launch, prefix):
    for message in launch(0, "programs.ends:fail_to_init",
                          env={f"{prefix}_TIMELINE": "/nowhere/timeline.json"}):
        for part in (f"{prefix}_TIMELINE=/nowhere/timeline.json", "No such file or directory",
                     "name a file in a folder that exists"):
            assert part in message, message


@pytest.mark.parametrize("turns", [0, 150, 600])
def test_a_killed_process_leaves_a_file_that_can_be_read(launch_unchecked, tmp_path, turns):
    path = tmp_path / "timeline.json"
    outcome = launch_unchecked(0, "programs.timeline:die_while_it_is_written",
                               arguments={"turns": turns}, env={"SCALECOM_TIMELINE": str(path)})
    assert outcome.status == -9
    spans, _ = rows(path, is_killed=True)
    assert turns < 600 or sum("tensor." in name for name in spans) == 200
