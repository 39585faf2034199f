"""A rank killed at a random point of random work: the others leave in time, and nothing stays."""

import os
import pathlib
import random
import re
import time

import pytest
from conftest import RECOVERY
from programs.kills import WORKS

LEAVE_S_MAX = 5.0
# From the death to mpirun's end, which waits for the interpreters of the survivors.
END_S_MAX = 20.0
ORDINARY_ROUNDS = 9
ROUNDS = 200


def rounds():
    """Seeds, which a test's name shows: the first rounds meet every work once."""
    return [pytest.param(seed, marks=[pytest.mark.slow] if seed >= ORDINARY_ROUNDS else [],
                         id=f"seed{seed}") for seed in range(ROUNDS)]


def plan(seed):
    """(ranks, arguments of the program) of a round. Pure."""
    chance = random.Random(seed)
    ranks = chance.randint(2, 4)
    work = list(WORKS)[seed % len(WORKS)]
    return ranks, {"victim": chance.randrange(ranks), "work": work,
                   "turns": chance.choice([0, 1, 5, 20]), "delay": chance.uniform(0.0, 0.1)}


def processes_of(folder):
    """Processes whose command line names a folder, which no other test's does."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # It ended meanwhile.
        if str(folder) in command and path.parent.name != str(os.getpid()):
            found.append(f"{path.parent.name}: {command}")
    return found


def shared_files(job):
    """What lies in /dev/shm, but for the files that Open MPI makes for other jobs than this one.

    Those are named vader_segment.HOST.USER.JOB.RANK; jobs of others come and go at any time.
    """
    files = set()
    for name in os.listdir("/dev/shm"):
        others = re.fullmatch(r"vader_segment\..*\.([0-9a-f]+)\.\d+", name)
        if others is None or others.group(1) == f"{job:x}":
            files.add(name)
    return files


def remains(before, job, folder):
    return sorted(shared_files(job) - before) + processes_of(folder)


def check_survivor(value, victim):
    assert value["message"] is not None, "it went on for 30 s"
    named = re.findall(r"rank (\d+) is lost", value["message"])
    assert set(named) == {str(victim)}, value["message"]
    assert value["left_at"] - value["killed_at"] < LEAVE_S_MAX, value


@pytest.mark.parametrize("seed", rounds())
def test_survivors_of_a_killed_rank_leave_and_nothing_stays(launch_unchecked, tmp_path, seed):
    ranks, arguments = plan(seed)
    victim = arguments["victim"]
    print(f"seed {seed}: {ranks} ranks, {arguments}")
    before = set(os.listdir("/dev/shm"))
    outcome = launch_unchecked(ranks, "programs.kills:lose_a_rank_at_work", arguments=arguments,
                               options=RECOVERY)
    ended_at = time.monotonic()
    assert set(outcome.values) == set(range(ranks)) - {victim}, (outcome.errors, outcome.output)
    for value in outcome.values.values():
        check_survivor(value, victim)
        assert ended_at - value["killed_at"] < END_S_MAX
    assert outcome.status is not None, outcome.output
    job = next(iter(outcome.values.values()))["job"]
    deadline = time.monotonic() + 5.0
    while (left := remains(before, job, tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)  # mpirun's own cleaning-up wakes nobody.
    assert not left, left
