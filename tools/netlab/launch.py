"""Commands on the hosts of a test network: under mpirun on all of them, or on one without it."""

import os
import shlex
import shutil
import sys
import time

from environment import mpi_environment

from lab import ENTER, INTERFACE
from waiting import CommandError, end_processes

EXIT_TIMED_OUT = 124  # As timeout(1) has it.
PATIENCE_S = 5
OWN_SETTINGS = ("SCALECOM_", "HOROVOD_")


def mpirun_program():
    return shutil.which("mpirun.openmpi") or shutil.which("mpirun")


def mpi_parameters(lab, ranks_per_host):
    """Open MPI's parameters, by name: one daemon a host, TCP between hosts, memory inside."""
    return {
        "plm": "rsh",
        "plm_rsh_agent": str(ENTER),
        "plm_rsh_no_tree_spawn": "1",  # Only this machine's own namespace can enter the others.
        "oob_tcp_if_include": INTERFACE,
        "pml": "ob1",
        "btl": "self,tcp,vader" if ranks_per_host > 1 else "self,tcp",
        "btl_tcp_if_include": INTERFACE,
        "orte_tmpdir_base": str(lab.record.folder),
    }


def mpirun_command(lab, options):
    """The words that start options.command on every rank; run them on host 0.

    options: ranks_per_host, command, and what the user adds: mca ([name, value] each, which win
    over mpi_parameters), export (variables, for mpirun's -x), mpirun (further words).
    """
    parameters = mpi_parameters(lab, options.ranks_per_host)
    parameters.update({name: value for name, value in options.mca})
    exported = sorted(name for name in os.environ if name.startswith(OWN_SETTINGS))
    words = [mpirun_program(), "--host",
             ",".join(f"{name}:{options.ranks_per_host}" for name in lab.hosts),
             "-np", str(len(lab.hosts) * options.ranks_per_host),
             "--map-by", "slot", "--bind-to", "none"]
    for name, value in parameters.items():
        words += ["--mca", name, value]
    for name in [*exported, *options.export]:
        words += ["-x", name]
    return [*words, *shlex.split(options.mpirun), *options.command]


def lab_environment(lab):
    """What commands find in their environment; NETLAB_HOSTS names the hosts, in rank order.

    Hosts of one name have other links in the next lab: each kind of link has a cache of its own for
    what sessions measure."""
    environment = mpi_environment()
    link = "-".join(f"{value:g}" for value in vars(lab.link).values() if value is not None)
    return {**environment, "NETLAB_HOSTS": ",".join(lab.hosts),
            "XDG_CACHE_HOME": os.path.join(environment["XDG_CACHE_HOME"], f"netlab-{link}")}


def run_command(lab, host, command, limit_s, stop_signals):
    """Runs a command on a host with this program's input and output; returns its exit code."""
    process = lab.enter(host, command, env=lab_environment(lab))
    watched = [process, lab.switch] if lab.switch else [process]
    try:
        ended = stop_signals.wait_ended(watched, time.monotonic() + limit_s)
        if ended is lab.switch and ended is not None:
            raise CommandError("the switch ended while the command ran; see its message above")
    finally:
        if process.poll() is None:
            end_processes([process.pid], PATIENCE_S)
        code = process.wait()
    if ended is None:
        print(f"netlab: the command did not end within {limit_s:g} s and was stopped; --limit-s "
              "allows more", file=sys.stderr)
        return EXIT_TIMED_OUT
    return code if code >= 0 else 128 - code
