"""The command lines that start a job by another launcher. Pure, but for finding that launcher."""

import functools
import os
import secrets
import shutil
import subprocess
from typing import NamedTuple

from scalecom.launch import hosts

# Variables that ranks on other hosts need as they are here.
_FORWARDED_PREFIXES = ("SCALECOM_", "HOROVOD_")
_FORWARDED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
_ROOT_VARIABLES = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
_VERSION_TIMEOUT_S = 20
# Not where one of these is set: by its default Open MPI goes Grid Engine's or LoadLeveler's own way to the hosts.
_SHELLS_OF_SCHEDULERS = ("SGE_ROOT", "LOADL_STEP_ID")
# Open MPI's own waits for ever for a server that is stopped, and outlives mpirun where a host has vanished.
_SHELL_WITH_DEADLINE = "ssh -o ConnectTimeout=10 -o ServerAliveInterval=30"


# By which horovodrun tells a rank its place; and torchrun, where it does. They are that rank's alone.
HOROVOD_PLACES = {"HOROVOD_RANK": "RANK", "HOROVOD_SIZE": "WORLD_SIZE", "HOROVOD_LOCAL_RANK": "LOCAL_RANK",
                  "HOROVOD_LOCAL_SIZE": "LOCAL_WORLD_SIZE", "HOROVOD_HOSTNAME": ""}


def horovod_places(environment):
    """Those of them that torchrun's variables tell."""
    return {name: environment[told] for name, told in HOROVOD_PLACES.items() if told in environment}


class Plan(NamedTuple):
    """What is to be started, whoever starts it."""
    ranks: int
    hosts: list  # of Host
    variables: list  # Of -x: "NAME" or "NAME=value".
    command: list
    prefixes_output: bool = False
    allows_root: bool = False
    launcher_arguments: list = []


class Launcher(NamedTuple):
    program: str
    family: str  # "openmpi", "mpich", "intel", "srun" or "srun without PMIx"


def forwarded_variables(plan, environment):
    """Names, and NAME=value of those that -x gives a value, each once and in order."""
    given = {text.partition("=")[0]: text for text in plan.variables}
    for name in sorted(environment):
        if name.startswith(_FORWARDED_PREFIXES) or name in _FORWARDED:
            given.setdefault(name, name)
    return list(given.values())


def forwarded_environment(plan, environment):
    """The same as a dictionary, without names that are not set here."""
    parts = [text.partition("=") for text in forwarded_variables(plan, environment)]
    return {name: value if has_value else environment[name] for name, has_value, value in parts
            if has_value or name in environment}


def _names_option(plan):
    return ",".join(host.name for host in plan.hosts)


def _equal_slots(plan, program):
    slots = {host.slots for host in plan.hosts}
    if len(slots) > 1:
        raise ValueError(f"the hosts have {sorted(slots)} slots; {program} starts as many ranks on each "
                         "host: give all the same, or take the mpirun of Open MPI or MPICH")
    return str(slots.pop())


def _openmpi_line(program, plan, environment, user):
    line = [program, "-np", str(plan.ranks), "-H", hosts.join(plan.hosts), "--bind-to", "none",
            "--map-by", "slot"]
    if plan.allows_root:
        line.append("--allow-run-as-root")
    elif user == 0 and not all(environment.get(name) == "1" for name in _ROOT_VARIABLES):
        raise ValueError("Open MPI starts nothing as root unless told so: give "
                         f"--allow-run-as-root, or set {'=1 and '.join(_ROOT_VARIABLES)}=1, or take "
                         "another user")
    if plan.prefixes_output:
        line.append("--tag-output")
    for text in forwarded_variables(plan, environment):
        line += ["-x", text]
    return line


def _mpich_line(program, plan, environment, _):
    return _hydra_line(program, plan, environment, [hosts.join(plan.hosts)])


def _intel_line(program, plan, environment, _):
    """It takes names with slots, and does not heed these; of one host they are a part of the name."""
    return _hydra_line(program, plan, environment,
                       [_names_option(plan), "-ppn", _equal_slots(plan, "Intel MPI's mpirun")])


def _hydra_line(program, plan, environment, where):
    line = [program, "-n", str(plan.ranks), "-hosts", *where, "-bind-to", "none"]
    if plan.prefixes_output:
        line.append("-prepend-rank")
    texts = forwarded_variables(plan, environment)
    names = [text for text in texts if "=" not in text]
    if names:
        line += ["-genvlist", ",".join(names)]
    for text in texts:
        name, has_value, value = text.partition("=")
        if has_value:
            line += ["-genv", name, value]
    return line


def _srun_line(program, plan, environment, _, mpi="pmix"):
    line = [program, f"--ntasks={plan.ranks}", "--cpu-bind=none", "--kill-on-bad-exit=1"]
    if "SLURM_MPI_TYPE" not in environment:
        line.append(f"--mpi={mpi}")
    if plan.hosts:
        line += ["--nodelist=" + _names_option(plan), "--ntasks-per-node=" + _equal_slots(plan, "srun")]
    if plan.prefixes_output:
        line.append("--label")
    values = [text for text in plan.variables if "=" in text]
    if any("," in text for text in values):
        raise ValueError("-x has a comma in a value, which srun cannot pass; export the variable "
                         "and give -x its name")
    return [*line, "--export=" + ",".join(["ALL", *values])]


def launch_environment(launcher, environment):
    """That of the launcher: without a rank's place; for Open MPI with a remote shell that has a deadline,
    unless the user, the site or a scheduler has chosen one; for srun, which passes all of it on, with a key
    by which ranks without MPI prove whose they are."""
    kept = {name: value for name, value in environment.items() if name not in HOROVOD_PLACES}
    has_scheduler = any(name in environment for name in _SHELLS_OF_SCHEDULERS)
    if launcher.family == "openmpi" and not has_scheduler and shutil.which("ssh") and _has_default_shell():
        kept["OMPI_MCA_plm_rsh_agent"] = _SHELL_WITH_DEADLINE
    if launcher.family.startswith("srun"):
        kept.setdefault("SCALECOM_RENDEZVOUS_KEY", secrets.token_hex(16))
    return kept


def _has_default_shell():
    try:
        shown = subprocess.run(["ompi_info", "--parsable", "--level", "9", "--param", "plm", "rsh"],
                               capture_output=True, text=True, stdin=subprocess.DEVNULL,
                               timeout=_VERSION_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "param:plm_rsh_agent:source:default\n" in shown.stdout


_LINES = {"openmpi": _openmpi_line, "mpich": _mpich_line, "intel": _intel_line, "srun": _srun_line,
          "srun without PMIx": functools.partial(_srun_line, mpi="none")}  # The ranks meet by themselves.


def launch_line(launcher, plan, environment, user):
    """The words of the command that starts the plan; ValueError where that launcher cannot."""
    start = _LINES[launcher.family](launcher.program, plan, environment, user)
    return [*start, *plan.launcher_arguments, *plan.command]


def _shown_by(program, option):
    try:
        shown = subprocess.run([program, option], capture_output=True, text=True,
                               stdin=subprocess.DEVNULL, timeout=_VERSION_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ValueError(f"{program} {option} does not work: {error}") from error
    return shown.stdout + shown.stderr


def _srun_family(program):
    return "srun" if "pmix" in _shown_by(program, "--mpi=list").split() else "srun without PMIx"


def _mpi_family(program):
    text = _shown_by(program, "--version")
    for sign, family in (("Open MPI", "openmpi"), ("OpenRTE", "openmpi"), ("Intel(R) MPI", "intel"),
                         ("HYDRA", "mpich"), ("mpich", "mpich")):
        if sign in text:
            return family
    raise ValueError(f"{program} is of an unknown MPI: its --version says {text[:200]!r}; known are "
                     "Open MPI, MPICH and Intel MPI. Start the ranks with it yourself: scalecom "
                     "needs no scalecomrun")


def find_launcher(name):
    """The Launcher mpirun or srun of this machine; ValueError, with the remedy, without it."""
    programs = {"mpirun": ("mpirun", "mpiexec"), "srun": ("srun",)}[name]
    found = next(filter(None, map(shutil.which, programs)), None)
    if found is None:
        remedy = ("install Open MPI (package openmpi-bin); ranks of this host alone need none: "
                  "--launcher local" if name == "mpirun" else "it comes with Slurm")
        raise ValueError(f"{name} is not on the PATH; {remedy}")
    return Launcher(os.path.basename(found), {"mpirun": _mpi_family, "srun": _srun_family}[name](found))
