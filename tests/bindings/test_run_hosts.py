"""Jobs by mpirun on several hosts: network namespaces (tools/netlab), whose `enter` is the remote shell."""

import os
import shutil
import sys

import pytest
from conftest import mpirun_command
from jobs import HERE, rank_environment, run_limited

NETLAB = HERE.parent.parent / "tools" / "netlab"


def run_on_hosts(tmp_path, folder):
    """(exit code, output) of horovod_run.py on two hosts, started in a folder of the first."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    mpirun_command(1)  # Skips where there is none.
    hostfile = tmp_path / "hosts"
    script = HERE / "scripts" / "horovod_run.py"
    line = (f"echo $NETLAB_HOSTS | tr , '\\n' > {hostfile} && cd {folder} && "
            f"exec {sys.executable} -m scalecom.horovod {script} --hostfile {hostfile}")
    parameters = {"plm": "rsh", "plm_rsh_agent": str(NETLAB / "enter"), "plm_rsh_no_tree_spawn": "1",
                  "oob_tcp_if_include": "eth0", "btl_tcp_if_include": "eth0"}
    return run_limited(
        [sys.executable, str(NETLAB / "netlab"), "--hosts", "2", "--on", "0", "--", "sh", "-c", line], 90,
        env=rank_environment({f"OMPI_MCA_{name}": value for name, value in parameters.items()}))


def test_a_script_runs_its_function_on_several_hosts(tmp_path):
    status, output = run_on_hosts(tmp_path, tmp_path)
    assert status == 0 and output.endswith("all as expected\n"), output
    assert [path.name for path in tmp_path.iterdir()] == ["hosts"]


def test_a_folder_that_hosts_do_not_share_is_named(tmp_path):
    """Each host has a /dev/shm of its own."""
    status, output = run_on_hosts(tmp_path, "/dev/shm")
    assert status != 0 and "h1: there is no /dev/shm/scalecom-" in output, output
    assert "several hosts needs a working folder that they share" in output
    assert "of 2 ranks, [0, 1] gave no result" in output
