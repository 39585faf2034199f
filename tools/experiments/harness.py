"""What the experiments share: their interpreter, tables that grow row by row, jobs of ranks."""

import csv
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from environment import (PYTHON, fail, install_python_packages,  # noqa: E402
                         install_system_packages, mpi_environment, run, say)

RESULTS = ROOT / "docs" / "experiments"
DATA = ROOT / "build" / "data"
NETLAB = ROOT / "tools" / "netlab" / "netlab"


def add_options(parser, name):
    """The options that every experiment has."""
    parser.add_argument("--python", type=pathlib.Path,
                        help="an interpreter with scalecom, torch and matplotlib; else .venv")
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS,
                        help=f"folder of {name}.csv and {name}.png")
    parser.add_argument("--draw", type=pathlib.Path, metavar="TABLE", help="only draw this table")


def add_training_options(parser):
    """Where ranks train, and how they are started."""
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--launcher", choices=["mpirun", "variables"],
                        default="mpirun" if shutil.which("mpirun") else "variables",
                        help="variables: RANK, WORLD_SIZE and so on, where there is no MPI")


def choose_python(options, packages=()):
    """The interpreter of the ranks; installs what is needed where none was given."""
    if options.python is None:
        install_system_packages(extra=packages)
        install_python_packages(extra=["matplotlib"])
        return PYTHON
    return options.python


def draw_by(python, script, table):
    """Draws with the ranks' interpreter, which has matplotlib."""
    run([python, script, "--draw", table])


def read_rows(table):
    with open(table, newline="") as file:
        return list(csv.DictReader(file))


def append_rows(table, rows):
    """Adds rows in one write, so that several processes may; the first makes the header."""
    table.parent.mkdir(parents=True, exist_ok=True)
    with open(table, "a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_ranks(command, ranks, launcher, variables):
    """Processes of a job on this host: mpirun, or with "variables" each rank, told its place by
    the variables that torchrun sets. variables: further ones."""
    words = [str(word) for word in command]
    environment = {**mpi_environment(), "GLOO_SOCKET_IFNAME": "lo", **variables}
    if launcher == "mpirun":
        return [subprocess.Popen(["mpirun", "--oversubscribe", "--bind-to", "none", "-np",
                                  str(ranks), *words], env=environment)]
    environment |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
                    "OMP_NUM_THREADS": "1"}
    return [subprocess.Popen(words, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(ranks)]


def wait_for(processes, deadline):
    """True when all ended well; past the deadline, or when one fails, ends the others."""
    try:
        while any(process.poll() is None for process in processes):
            if time.monotonic() > deadline or any(process.poll() for process in processes):
                return False
            for process in processes:
                if process.poll() is None:
                    _wait(process, 0.2)
                    break
        return all(process.returncode == 0 for process in processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            if not _wait(process, 5):
                process.kill()
                process.wait()


def _wait(process, limit_s):
    try:
        process.wait(limit_s)
        return True
    except subprocess.TimeoutExpired:
        return False


def cores():
    return len(os.sched_getaffinity(0))


__all__ = ["DATA", "RESULTS", "ROOT", "add_options", "add_training_options", "append_rows",
           "choose_python", "cores", "draw_by", "fail", "mpi_environment", "read_rows", "run",
           "say", "start_ranks", "wait_for"]
