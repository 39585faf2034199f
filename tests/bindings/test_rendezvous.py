"""Jobs without MPI: ranks started as plain processes, and by torchrun."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from jobs import HERE, Job, environment, free_port, has_ipv6, run_limited
from programs.claims import names

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 (no ::1)")
EXAMPLES = HERE.parent.parent / "docs" / "examples"


@pytest.mark.parametrize("shared_memory", ["1", "0"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_plain_processes_are_a_job(tmp_path, ranks, shared_memory):
    job = Job(tmp_path, ranks, "programs.rendezvous:work",
              env={"SCALECOM_SHARED_MEMORY": shared_memory})
    for rank, value in enumerate(job.outcome().check()):
        assert value["is_right"]
        assert (value["rank"], value["size"]) == (rank, ranks)
        assert (value["local_rank"], value["local_size"], value["cross_rank"]) == (rank, ranks, 0)
        assert not value["has_mpi"]
        if ranks > 1:
            assert value["launcher"] == "RANK and WORLD_SIZE"
            assert value["transport"] == "sockets"
            shares = value["collectives"] == "shared memory"
            assert shares == (shared_memory == "1"), value


def of_srun(rank, ranks, **more):
    """What srun --mpi=none tells a process, and nothing else."""
    return {"RANK": None, "WORLD_SIZE": None, "LOCAL_RANK": None, "MASTER_ADDR": None, "MASTER_PORT": None,
            "SLURM_PROCID": str(rank), "SLURM_STEP_NUM_TASKS": str(ranks), "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "no-such-host[1-2]",
            **more}


def test_processes_of_srun_without_mpi_are_a_job(tmp_path):
    job = Job(tmp_path, 3, "programs.rendezvous:work", variables=lambda rank: of_srun(rank, 3))
    for rank, value in enumerate(job.outcome().check()):
        assert (value["rank"], value["size"], value["local_rank"]) == (rank, 3, rank) and value["is_right"]
        assert value["launcher"] == "srun (SLURM_PROCID)"


@pytest.mark.parametrize("variables", [{}, {"SCALECOM_RENDEZVOUS": "no-such-host:1"}])
def test_a_step_of_one_task_is_a_job_of_one(tmp_path, variables):
    job = Job(tmp_path, 1, "programs.rendezvous:work",
              variables=lambda rank: of_srun(rank, 1, SLURM_STEP_ID="4294967290", **variables))
    value, = job.outcome().check()
    assert (value["rank"], value["size"]) == (0, 1) and value["is_right"]


@pytest.mark.parametrize("first", [0, 1])
def test_ctrl_c_ends_an_init_that_waits(tmp_path, first):
    os.mkfifo(tmp_path / "pipe")
    job = Job(tmp_path, 2, "programs.rendezvous:interrupt_and_connect_again",
              {"pipe": str(tmp_path / "pipe"), "first": first}, env={"SCALECOM_CONNECT_TIMEOUT": "60"})
    values = job.outcome().check()
    assert values[first][0] < 10, values
    assert [value[1] for value in values] == [2.0, 2.0]


def test_a_process_of_srun_that_does_not_come_is_named(tmp_path):
    job = Job(tmp_path, 3, "programs.rendezvous:fail_to_connect", starting=[0, 2],
              env={"SCALECOM_CONNECT_TIMEOUT": "5"}, variables=lambda rank: of_srun(rank, 3))
    outcome = job.outcome()
    for rank in (0, 2):
        assert "rank 1 of 3 did not come to init() within 5 s" in outcome.values[rank], outcome
        assert outcome.values[rank].endswith("srun's step has 3 tasks; a process that is to be alone "
                                             "sets RANK=0 and WORLD_SIZE=1"), outcome


@pytest.mark.parametrize("claim", names("programs.collectives") + names("programs.parts"))
def test_all_operations_work_over_sockets_alone(socket_claims, claim):
    socket_claims(claim)


@pytest.fixture(scope="module")
def socket_claims(tmp_path_factory):
    """The claims about healthy jobs on three ranks without MPI and shared memory."""
    folder = tmp_path_factory.mktemp("sockets")
    verdicts = {}

    def check(claim):
        for module in ("programs.collectives", "programs.parts"):
            if claim not in names(module):
                continue
            if module not in verdicts:
                job = Job(folder, 3, "programs.claims:check_all", {"module": module},
                          env={"SCALECOM_SHARED_MEMORY": "0",
                               "SCALECOM_STALL_SHUTDOWN_TIME_SECONDS": "20"})
                verdicts[module] = job.outcome(120).check()
            problems = [f"rank {rank}:\n{verdict[claim]}"
                        for rank, verdict in enumerate(verdicts[module]) if verdict[claim]]
            assert not problems, "\n".join(problems)

    return check


@needs_ipv6
def test_ranks_meet_at_the_ipv6_loopback(tmp_path):
    job = Job(tmp_path, 2, "programs.rendezvous:work", env={"SCALECOM_RENDEZVOUS_KEY": "secret"},
              variables=lambda rank: {"MASTER_ADDR": "[::1]" if rank else "::1"})
    assert all(value["is_right"] for value in job.outcome().check())


def torchrun(ranks, *arguments, env=None):
    pytest.importorskip("torch.distributed.run")
    command = [sys.executable, "-m", "torch.distributed.run", *arguments,
               f"--nproc_per_node={ranks}"]
    return [*command, str(EXAMPLES / "ten_lines.py")], environment(env)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_torchrun_starts_a_job(ranks):
    command, env = torchrun(ranks, "--standalone")
    status, output = run_limited(command, 120, env=env)
    assert status == 0, output
    assert {int(rank) for rank in re.findall(rf"rank (\d+) of {ranks}: loss", output)} == set(
        range(ranks)), output


def test_torchrun_under_mpirun_is_the_launcher():
    """Its ranks inherit mpirun's variables, in which they all have one number."""
    command, env = torchrun(2, "--master_addr=127.0.0.1", f"--master_port={free_port()}")
    env.update(OMPI_COMM_WORLD_SIZE="1", OMPI_COMM_WORLD_RANK="0", PMIX_RANK="0")
    status, output = run_limited(command, 120, env=env)
    assert status == 0, output
    assert "rank 1 of 2: loss" in output


def test_two_jobs_at_once_each_have_their_own_ranks(tmp_path):
    jobs = [Job(tmp_path, 2, "programs.rendezvous:sum_of", {"value": value})
            for value in (10.0, 20.0)]
    assert [job.outcome().check() for job in jobs] == [[20.0, 20.0], [40.0, 40.0]]


def test_sessions_follow_each_other_at_one_place(tmp_path):
    job = Job(tmp_path, 2, "programs.rendezvous:connect_again", {"times": 5})
    assert job.outcome().check() == [[2.0] * 5] * 2


def test_a_rank_that_does_not_come_is_named(tmp_path):
    job = Job(tmp_path, 3, "programs.rendezvous:fail_to_connect", starting=[0, 2],
              env={"SCALECOM_CONNECT_TIMEOUT": "5"})
    outcome = job.outcome()
    for rank in (0, 2):
        assert "rank 1 of 3 did not come to init() within 5 s" in outcome.values[rank], outcome


def test_a_missing_rank_0_is_named(tmp_path):
    job = Job(tmp_path, 2, "programs.rendezvous:fail_to_connect", starting=[1],
              env={"SCALECOM_CONNECT_TIMEOUT": "1"})
    assert "rank 1 did not find rank 0" in job.outcome().values[1]


def test_two_ranks_of_one_number_are_an_error(tmp_path):
    job = Job(tmp_path, 4, "programs.rendezvous:fail_to_connect", starting=[0, 1, 2],
              variables=lambda rank: {"RANK": "1"} if rank == 2 else {})
    outcome = job.outcome()
    messages = [value for value in outcome.values.values() if value]
    assert len(messages) >= 2, (outcome.values, outcome.output)
    assert all("two processes say that they are rank 1" in message for message in messages)


@pytest.mark.parametrize("victim, connections", [(0, 2 + 2 + 2), (1, 2 + 1)])
def test_a_rank_that_may_open_too_few_files_is_named_on_all_at_once(tmp_path, victim, connections):
    """Rank 0 needs them for the meeting, too; rank 1's for that is open by then."""
    job = Job(tmp_path, 3, "programs.rendezvous:lack_files", {"victim": victim})
    outcome = job.outcome(30)
    for rank in range(3):
        assert f"rank {victim}: this process may open" in outcome.values[rank], outcome.errors
        assert "ulimit -n" in outcome.values[rank]
        numbers = re.search(r"needs (\d+) .*\((\d+) are open", outcome.values[rank])
        assert int(numbers[1]) - int(numbers[2]) == connections + 24, outcome.values[rank]


@pytest.mark.parametrize("variables, message", [
    ({"WORLD_SIZE": None}, "RANK is set and WORLD_SIZE is not"),
    ({"RANK": None}, "WORLD_SIZE is set and RANK is not"),
    ({"RANK": "2"}, "RANK=2 is not allowed; allowed: 0 to 1"),
    ({"MASTER_PORT": "http"}, "MASTER_PORT=http is not allowed"),
    ({"MASTER_PORT": None}, "MASTER_PORT is not"),
    ({"MASTER_ADDR": None}, "MASTER_ADDR is not"),
    (of_srun(0, 2, SLURM_STEP_NUM_NODES="2", SLURM_DISTRIBUTION="arbitrary"),
     "MASTER_ADDR is not set, so that ranks by srun (SLURM_PROCID) do not know"),
    (of_srun(2, 2), "SLURM_PROCID=2 is not allowed; allowed: 0 to 1"),
    ({"MASTER_ADDR": "[::1"}, "MASTER_ADDR=[::1 is no host"),
    ({"MASTER_ADDR": "fe80::1"}, "MASTER_ADDR=fe80::1 is a link-local address"),
    ({"SCALECOM_RENDEZVOUS": "nowhere"}, "SCALECOM_RENDEZVOUS=nowhere is not allowed"),
    ({"RANK": None, "WORLD_SIZE": None, "SCALECOM_RENDEZVOUS": "a:1"}, "neither RANK nor"),
    ({"SCALECOM_ALLREDUCE_ALGORITHM": "mpi"}, "needs a job that was launched by MPI"),
])
def test_wrong_variables_are_named_at_once(tmp_path, variables, message):
    job = Job(tmp_path, 2, "programs.rendezvous:fail_to_connect", starting=[0],
              variables=lambda rank: variables)
    job.ranks = 3  # One case's rank is outside of the job.
    outcome = job.outcome(30)
    messages = list(outcome.values.values())
    assert len(messages) == 1 and message in messages[0], (messages, outcome.errors)


# Every two of the three settings meet.
@pytest.mark.parametrize("work, victim, shared_memory", [
    (work, victim, shared_memory) for place, work in enumerate((
        "all-reduce of 64 KiB", "all-reduce of 16 MiB", "ScaleCom steps", "steady state"))
    for victim, shared_memory in ((0, "01"[place % 2]), (2, "10"[place % 2]))])
def test_survivors_of_a_killed_rank_name_it_and_leave(tmp_path, work, victim, shared_memory):
    job = Job(tmp_path, 3, "programs.kills:lose_a_rank_at_work",
              {"victim": victim, "work": work, "turns": 3, "delay": 0.05},
              env={"SCALECOM_SHARED_MEMORY": shared_memory})
    outcome = job.outcome()
    assert set(outcome.values) == {0, 1, 2} - {victim}, (outcome.errors, outcome.output)
    for value in outcome.values.values():
        assert value["message"] is not None, "it went on"
        assert set(re.findall(r"rank (\d+) is lost", value["message"])) == {str(victim)}, value
        assert value["left_at"] - value["killed_at"] < 5.0, value


def start_alone(folder, ranks, port, rank, env, wrapper=()):
    """A rank on what is to be its host."""
    return Job(folder, ranks, "programs.rendezvous:work", starting=[rank], wrapper=wrapper,
               variables=lambda _: {**env, "MASTER_PORT": str(port)})


@pytest.fixture
def two_hosts():
    """Two network namespaces with a cable between them: commands to run in each."""
    with joined_hosts(lambda number: [f"10.77.0.{number}/24"]) as hosts:
        yield hosts


@pytest.fixture
def two_ipv6_hosts():
    """The same, without any IPv4."""
    with joined_hosts(lambda number: [f"fd77::{number}/64", "nodad"]) as hosts:
        yield hosts


@contextlib.contextmanager
def joined_hosts(address):
    """address(number): words of ip."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root, with ip (package iproute2), makes networks")
    spaces = [f"scalecom-test-{os.getpid()}-{end}" for end in "ab"]

    def ip(*words):
        made = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=10)
        if made.returncode != 0:
            pytest.skip(f"this machine makes no networks here: {made.stderr.strip()}")

    try:
        for space in spaces:
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
        ip("-n", spaces[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable",
           "netns", spaces[1])
        for number, space in enumerate(spaces, 1):
            ip("-n", space, "address", "add", *address(number), "dev", "cable")
            ip("-n", space, "link", "set", "cable", "up")
        yield [("ip", "netns", "exec", space) for space in spaces]
    finally:
        for space in spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, timeout=10)


def off_network(rank, variables):
    """Rank 0 calls its host localhost; the others know its address."""
    return {"MASTER_ADDR": "10.77.0.1" if rank else "localhost", **variables}


@pytest.mark.parametrize("place", [
    lambda rank: {"MASTER_ADDR": "10.77.0.1"},
    lambda rank: {"MASTER_ADDR": None, "SCALECOM_RENDEZVOUS": "10.77.0.1:4321",
                  "SCALECOM_RENDEZVOUS_KEY": "secret"},
    lambda rank: off_network(rank, {"SCALECOM_RENDEZVOUS_KEY": "secret"}),
    lambda rank: off_network(rank, {"LOCAL_WORLD_SIZE": "2"}),
    lambda rank: of_srun(rank, 4, SLURM_STEP_NUM_NODES="2", SLURM_STEP_NODELIST="10.77.0.[1-2]"),
])
def test_ranks_of_two_hosts_meet_over_the_network(tmp_path, two_hosts, place):
    check_two_hosts(tmp_path, 4, two_hosts, place)


@needs_ipv6
@pytest.mark.parametrize("place", [
    lambda rank: {"MASTER_ADDR": "fd77::1"},
    # Rank 0 cannot know that nobody comes by IPv4.
    lambda rank: {"SCALECOM_RENDEZVOUS": f"{'[fd77::1]' if rank else '127.0.0.1'}:4321",
                  "LOCAL_WORLD_SIZE": "1"},
])
def test_ranks_of_two_hosts_with_ipv6_alone_meet_over_the_network(tmp_path, two_ipv6_hosts, place):
    check_two_hosts(tmp_path, 2, two_ipv6_hosts, place)


@needs_ipv6
def test_an_address_that_leads_nowhere_keeps_nobody_from_another_one(tmp_path, two_hosts):
    """Rank 1 comes first, and of the two addresses of rank 0's host nobody has the IPv6 one."""
    subprocess.run([*two_hosts[1], "ip", "address", "add", "fd77::2/64", "dev", "cable", "nodad"],
                   check=True, timeout=10)
    table = tmp_path / "hosts"
    table.write_text("10.77.0.1 root\nfd77::9 root\n")
    with_table = ("unshare", "--mount", "sh", "-c", f'mount --bind {table} /etc/hosts && exec "$@"', "sh")
    port = free_port()

    def start(rank):
        place = {"MASTER_ADDR": "root", "SCALECOM_CONNECT_TIMEOUT": "20"}
        return start_alone(tmp_path, 2, port, rank, place, (*two_hosts[rank], *with_table))

    def is_tried():
        return "fd77::9" in subprocess.run([*two_hosts[1], "ss", "-6tnH", "state", "syn-sent"],
                                           capture_output=True, text=True, timeout=10).stdout

    guest = start(1)
    deadline = time.monotonic() + 20
    while not is_tried():
        assert time.monotonic() < deadline
    jobs = [start(0), guest]
    for rank, job in enumerate(jobs):
        outcome = job.outcome()
        assert rank in outcome.values, (outcome.errors, outcome.output)


def check_two_hosts(folder, ranks, hosts, place):
    """Those of even number on one host, the others on the other."""
    port = free_port()
    jobs = [start_alone(folder, ranks, port, rank, place(rank), hosts[rank % 2])
            for rank in range(ranks)]
    for rank, job in enumerate(jobs):
        outcome = job.outcome()
        assert rank in outcome.values, (outcome.errors, outcome.output)
        value = outcome.values[rank]
        assert value["is_right"] and value["transport"] == "sockets"
        assert (value["local_rank"], value["local_size"]) == (rank // 2, ranks // 2)
        assert (value["cross_rank"], value["cross_size"]) == (rank % 2, 2)


def test_ranks_that_localhost_keeps_apart_say_what_to_set(tmp_path, two_hosts):
    port = free_port()
    jobs = [Job(tmp_path, 2, "programs.rendezvous:fail_to_connect", starting=[rank],
                wrapper=two_hosts[rank], port=port, env={"SCALECOM_CONNECT_TIMEOUT": "1"},
                variables=lambda rank: off_network(rank, {})) for rank in range(2)]
    first, second = (job.outcome().values[rank] for rank, job in enumerate(jobs))
    assert "MASTER_ADDR=localhost keeps rank 0 off the network" in first
    assert "10.77.0.1: Connection refused" in second, second
