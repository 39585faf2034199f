"""Shared memory that cannot be had, and ranks of one host in containers of their own."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import mpirun_command, rank_environment, run_limited

BIN = pathlib.Path(sys.executable).parent
# Less than any segment, more than what Open MPI writes when it does not share memory itself.
FILE_BYTES_MAX = 1 << 20
MESSAGES = ("--mca", "btl", "tcp,self")
NOT_SHARED = "ranks of one host do not share memory"

# A container of each kind, as the command in front of the rank's own.
UNSHARE = ("unshare", "--kill-child")
CONTAINERS = {
    "pid": (*UNSHARE, "--pid", "--fork", "--mount-proc"),
    "mount": (*UNSHARE, "--mount"),
    "ipc": (*UNSHARE, "--ipc"),
    "all, with a /dev/shm of its own": (
        *UNSHARE, "--pid", "--fork", "--mount", "--ipc", "--uts", "--mount-proc",
        "sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "container"),
}


@pytest.fixture(scope="session")
def containers():
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed (package util-linux)")
    for command in CONTAINERS.values():
        made = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=10)
        if made.returncode != 0:
            pytest.skip(f"this machine makes no namespaces here: {made.stderr.strip()}")


@pytest.mark.parametrize("limited", [0, 1])
def test_without_shared_memory_messages_carry_the_data(launch_unchecked, limited):
    """Rank 0 makes the memory of its host; a limit on the other changes nothing."""
    outcome = launch_unchecked(2, "programs.hosts:work", options=MESSAGES,
                               arguments={"file_bytes_max": FILE_BYTES_MAX,
                                          "limited_rank": limited})
    for value in outcome.check():
        assert value["is_right"]
        assert value["local_size"] == 2
        if limited == 0:
            assert value["shared_memory"].startswith("no (rank 0 on "), value
            assert "File too large" in value["shared_memory"]
            assert not value["collectives"].startswith("shared memory"), value
        else:
            assert value["shared_memory"] == "yes"
    assert outcome.output.count(NOT_SHARED) == (1 if limited == 0 else 0), outcome.output


def test_info_tells_why_memory_is_not_shared(tmp_path):
    # mpirun forwards both streams in pieces, so a warning could stand in the middle of the JSON.
    warnings = tmp_path / "warnings"
    limit = f'ulimit -f {FILE_BYTES_MAX // 1024}; exec "$@" 2>>{shlex.quote(str(warnings))}'
    status, output = run_limited(
        [*mpirun_command(2, MESSAGES), "bash", "-c", limit, "limited", str(BIN / "scalecom-info"),
         "--json"], 60, env=rank_environment())
    assert status == 0, output
    session = json.loads(output[output.index("{\n"):output.rindex("}") + 1])["session"]
    assert "ftruncate failed: File too large" in session["shared_memory"], session
    assert warnings.read_text().count(NOT_SHARED) == 1, warnings.read_text()


@pytest.mark.parametrize("kind", CONTAINERS)
def test_ranks_in_containers_with_one_network_share_memory(launch, containers, kind):
    # Open MPI's own shared memory looks for peers by process number and in /dev/shm.
    values = launch(3, "programs.hosts:work", wrapper=CONTAINERS[kind], options=MESSAGES)
    changed = [name for name in ("pid", "mnt", "ipc", "net")
               if len({value["namespaces"][name] for value in values}) == 3]
    assert changed and "net" not in changed, values
    for value in values:
        assert value["is_right"]
        assert value["shared_memory"] == "yes" and value["local_size"] == 3, value


@pytest.mark.parametrize("ranks, stranger", [(2, 1), (3, 0), (3, 1)])
def test_a_rank_without_a_network_to_the_others_fails_all(launch, containers, ranks, stranger):
    if os.geteuid() != 0:
        pytest.skip("only root moves a process into another network namespace")
    values = launch(ranks, "programs.hosts:lose_the_network", arguments={"stranger": stranger},
                    env={"SCALECOM_CONNECT_TIMEOUT": "3"})
    for value in values:
        assert value["message"] is not None, "it connected"
        assert "no network to rank" in value["message"] and "container" in value["message"], value
        assert value["seconds"] < 5.0
    assert len({value["message"] for value in values}) == 1
