"""What ranks that wait, idle or outnumber the cores cost: medians, because machines are noisy."""

import statistics

import pytest

TRIES = 3
WAITING_MAX = 0.01  # of a core
IDLE_MAX = 0.001
# Measured: 0.4 to 0.7 s on cores that others wanted, too; 4.6 s when each wait spins for 20 ms.
CROWD_S_MAX = 3.0

# After so many equal steps the ranks repeat them without negotiation; 0: never.
STEADY_STEPS = [0, 3]
STEPS = 20


def check_shares(values, steady_steps, share_max):
    for value in values:
        assert (value["steady_agreements"] > 0) == (steady_steps > 0), value
        assert statistics.median(value["shares"]) < share_max, value


# Without negotiation the wait is one inside an all-reduce, over shared memory or messages.
@pytest.mark.parametrize("steady_steps, shared_memory", [(0, "1"), (3, "1"), (3, "0")])
def test_a_rank_that_waits_for_another_sleeps(launch, steady_steps, shared_memory):
    values = launch(3, "programs.load:wait",
                    arguments={"seconds": 1.0, "tries": TRIES, "steps": STEPS},
                    env={"SCALECOM_STEADY_STEPS": str(steady_steps),
                         "SCALECOM_SHARED_MEMORY": shared_memory})
    check_shares([values[0], values[2]], steady_steps, WAITING_MAX)


@pytest.mark.parametrize("seconds", [5.0, pytest.param(10.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("steady_steps", STEADY_STEPS)
def test_an_idle_session_takes_hardly_any_processor_time(launch, seconds, steady_steps):
    values = launch(2, "programs.load:idle",
                    arguments={"seconds": seconds, "tries": TRIES, "steps": STEPS},
                    env={"SCALECOM_STEADY_STEPS": str(steady_steps)})
    check_shares(values, steady_steps, IDLE_MAX)


# With 0 Open MPI itself spins while it waits; scalecom does not wait there.
@pytest.mark.parametrize("yields", ["0", "1"])
def test_more_ranks_than_cores_get_on(launch, yields):
    values = launch(8, "programs.load:crowd", arguments={"count": 200, "cores": 2},
                    env={"OMPI_MCA_mpi_yield_when_idle": yields}, timeout=120)
    for value in values:
        assert value["is_right"]
        assert value["seconds"] < CROWD_S_MAX
