"""scalecomrun, which is python -m scalecom.run: starts the ranks of a job. run() starts them for a
function."""

import argparse
import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys

from scalecom import _library
from scalecom.launch import discovery, driver, host_links, hosts, lines, processes
from scalecom.launch.function import run

__all__ = ["main", "run"]

_DESCRIPTION = """Starts COMMAND on several ranks. On this host alone it starts them itself, without
MPI; inside a Slurm allocation by srun; on several hosts by mpirun."""


_REMOTE_SHELL = "ssh -o BatchMode=yes -o ConnectTimeout=10"
# Options of horovodrun that are not here, and what to do.
_OF_HOROVODRUN = {
    ("-p", "--ssh-port"): "give the host its Port in ~/.ssh/config",
    ("-i", "--ssh-identity-file"): "give the host its IdentityFile in ~/.ssh/config",
    ("--network-interfaces", "--network-interface"): "leave it out: the route to the other hosts decides",
    ("--output-filename",): "redirect the output; --prefix-output shows whose a line is",
    ("--start-timeout",): "set SCALECOM_CONNECT_TIMEOUT",
    ("--mpi-args",): "take --launcher-args",
    ("--mpi",): "take --launcher mpirun",
    ("--gloo",): "take --launcher local, which is the default on one host",
    ("--jsrun",): "start the ranks by jsrun itself",
    ("--config-file", "--fusion-threshold-mb", "--cycle-time-ms", "--cache-capacity", "--log-level",
     "--timeline-filename", "--timeline-mark-cycles", "--autotune", "--autotune-log-file",
     "--no-stall-check", "--stall-check-warning-time-seconds", "--stall-check-shutdown-time-seconds"):
        "set the variable (scalecom-info shows all of them)"}
# What would have no effect elsewhere.
_ELASTIC_ONLY = ("slots_per_host", "elastic_timeout", "reset_limit", "slot_failures", "remote_shell",
                 "own_address", "host_timeout", "blacklist_cooldown_range")


def _positive(text):
    if not re.fullmatch(r"\d{1,7}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; allowed: 1 to 9999999")
    return int(text)


def _variable(text):
    if not re.fullmatch(r"[A-Za-z_]\w*(=.*)?", text, re.DOTALL):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: NAME and NAME=value")
    return text


class _Refusal(argparse.Action):
    """Ends with what takes the place of an option of horovodrun."""

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string} is of horovodrun and not of scalecomrun; {self.const}")


def _make_parser():
    parser = argparse.ArgumentParser(
        prog="scalecomrun", description=_DESCRIPTION, allow_abbrev=False,
        usage="%(prog)s -np N [options] COMMAND [arguments]")
    add = parser.add_argument
    add("-np", "-n", "--num-proc", dest="ranks", type=_positive, metavar="N",
        help="number of ranks")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-H", "--hosts", metavar="HOST:SLOTS,...",
                       help="hosts, and the ranks that each has room for; default: this host")
    where.add_argument("-hostfile", "--hostfile", metavar="FILE",
                       help="the same, one host a line: host, host:slots or host slots=N")
    add("-x", dest="variables", action="append", default=[], type=_variable, metavar="NAME[=VALUE]",
        help="a variable for all ranks; SCALECOM_*, HOROVOD_*, PATH, PYTHONPATH, LD_LIBRARY_PATH, "
             "VIRTUAL_ENV and OMP_NUM_THREADS go to other hosts without it")
    add("--launcher", choices=("auto", "mpirun", "srun", "local"), default="auto",
        help="who starts the ranks (default: %(default)s)")
    add("--launcher-args", default="", metavar="WORDS",
        help="further options for mpirun or srun, as in --launcher-args=\"--mem=0 -v\"")
    _add_elastic(parser)
    add("--allow-run-as-root", action="store_true", help="let Open MPI start ranks as root")
    add("--prefix-output", action="store_true",
        help="each line of output begins with its rank; in an elastic job with the number of its process")
    add("--dry-run", action="store_true", help="print what would be run, and run nothing")
    add("--verbose", action="store_true", help="print it, and run it")
    add("-v", "--version", action="version", version=f"scalecom {_library.version()}")
    add("-cb", "--check-build", action="store_true", help="tell what was built and what loads")
    for names, remedy in _OF_HOROVODRUN.items():
        add(*names, action=_Refusal, nargs=0, const=remedy, help=argparse.SUPPRESS)
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what each rank runs")
    return parser


def _add_elastic(parser):
    add = parser.add_argument_group("elastic jobs").add_argument
    add("--elastic", action="store_true",
        help="go on without lost ranks, and with new ones; each of the next three says it too")
    add("--min-np", "--min-num-proc", type=_positive, metavar="N",
        help="ranks below which the job waits (default: 1)")
    add("--max-np", "--max-num-proc", type=_positive, metavar="N",
        help="ranks that it has at most (default: -np)")
    add("--host-discovery-script", metavar="FILE",
        help="a program that is run each second and prints the hosts, one a line: host:slots")
    add("--slots-per-host", type=_positive, default=1, metavar="N",
        help="slots of a host for which the script gives none (default: %(default)s)")
    add("--elastic-timeout", type=_positive, default=600, metavar="S",
        help="seconds that ranks wait for --min-np of them to meet (default: %(default)s)")
    add("--reset-limit", type=_positive, default=0, metavar="N",
        help="meetings after the first one (default: any number)")
    add("--slot-failures", type=_positive, default=3, metavar="N",
        help="ranks that may fail in a slot before it is given up (default: %(default)s)")
    add("--remote-shell", default=_REMOTE_SHELL, metavar="WORDS",
        help="what leads to another host, before its name and a command line (default: "
             "%(default)s)")
    add("--own-address", metavar="ADDRESS",
        help="address by which other hosts reach this one (default: that of the interface which leads "
             "to them)")
    add("--host-timeout", type=_positive, default=20, metavar="S",
        help="seconds of silence after which a host counts as gone (default: %(default)s)")
    add("--blacklist-cooldown-range", nargs=2, type=_positive, default=(10, 300), metavar="S",
        help="seconds for which a host that failed is put aside: at first, and at most, as the time "
             "doubles (default: 10 300)")


def _is_elastic(options):
    return bool(options.elastic or options.min_np or options.max_np
                or options.host_discovery_script)


def _check_not_elastic(options, parser):
    given = [name for name in _ELASTIC_ONLY if getattr(options, name) != parser.get_default(name)]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} is for elastic jobs; give --elastic too")


def _make_limits(options):
    """Of an elastic job; puts --max-np in the place of a missing -np."""
    options.ranks = options.ranks or options.max_np or options.min_np
    if options.ranks is None:
        raise ValueError("-np is missing; give the number of ranks, or --min-np and --max-np")
    limits = driver.Limits(options.min_np or 1, options.max_np or options.ranks,
                           options.elastic_timeout, options.reset_limit, options.slot_failures)
    if not limits.ranks_min <= options.ranks <= limits.ranks_max:
        raise ValueError(f"--min-np is {limits.ranks_min}, -np {options.ranks} and --max-np "
                         f"{limits.ranks_max}; each must be at least as large as the one before")
    return limits


def _check_address(text):
    """ValueError unless other hosts may reach this one by it."""
    try:
        is_allowed = hosts.is_reachable(text)
    except ValueError:
        is_allowed = False
    if not is_allowed:
        raise ValueError(f"--own-address is {text}; give an address of this host that the others reach, "
                         "such as 10.0.0.1 or fd00::1")


def _make_reach(options):
    shell = shlex.split(options.remote_shell)
    if not shell:
        raise ValueError("--remote-shell is empty; give a program and its options, such as ssh -p 222")
    if options.own_address:
        _check_address(options.own_address)
    first, last = options.blacklist_cooldown_range
    if first > last:
        raise ValueError(f"--blacklist-cooldown-range is {first} {last}; give the shorter time first")
    return host_links.Reach(shell, options.own_address, options.host_timeout, first, last)


def _run_elastic(options, found):
    limits = _make_limits(options)
    if options.launcher not in ("auto", "local"):
        raise ValueError(f"--launcher is {options.launcher}; scalecomrun starts the ranks of an "
                         "elastic job itself: leave it out")
    if found and options.host_discovery_script:
        raise ValueError("-H or --hostfile and --host-discovery-script are given; take one")
    script = options.host_discovery_script
    if not found and not script:
        found = [hosts.Host("localhost", limits.ranks_max)]
    slots = sum(host.slots for host in found)
    if not script and slots < limits.ranks_min:
        raise ValueError(f"--min-np is {limits.ranks_min}, and the hosts have {slots} slots; give "
                         "more slots")
    plan = lines.Plan(options.ranks, [], options.variables, _command_of(options),
                      options.prefix_output)
    if options.dry_run or options.verbose:
        where = hosts.show(found) if found else f"the hosts that {script} prints"
        print(f"{limits.ranks_min} to {limits.ranks_max} ranks on {where}: "
              f"{shlex.join(plan.command)}", flush=True)
    if options.dry_run:
        return 0
    seen = discovery.Discovery(found, script and os.path.abspath(script), options.slots_per_host)
    return asyncio.run(driver.run_elastic(plan, limits, seen, _make_reach(options), os.environ,
                                          _tell))


def _hosts_of(options):
    """The hosts that were asked for; none where nothing was said."""
    # An empty one is a variable that is not set.
    if options.hosts is not None:
        return hosts.parse_hosts(options.hosts)
    return hosts.read_file(options.hostfile) if options.hostfile is not None else []


def _command_of(options):
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise ValueError("there is no command; give what each rank runs, such as python train.py")
    if shutil.which(command[0]) is None:
        is_file = "/" in command[0] and os.path.isfile(command[0])
        problem = ("it may not be executed; chmod +x lets it, where its first line names what runs it"
                   if is_file else "it is no program on the PATH")
        remedy = f"; take python {command[0]}" if command[0].endswith(".py") else ""
        raise ValueError(f"{command[0]} cannot be run: {problem}{remedy}")
    return command


def _is_one_host(found):
    return all(hosts.is_local(host.name) for host in found)


def _choose_launcher(options, found, environment):
    if options.launcher != "auto":
        return options.launcher
    if environment.get("SLURM_JOB_ID") and shutil.which("srun"):
        return "srun"
    return "local" if _is_one_host(found) else "mpirun"


def _make_plan(options, found, launcher):
    if options.ranks is None:
        raise ValueError("-np is missing; give the number of ranks")
    room = sum(host.slots for host in found)
    if found and room < options.ranks:
        raise ValueError(f"-np is {options.ranks}, and the hosts have {room} slots; give more "
                         "slots, such as -H node1:4,node2:4")
    if not found and launcher == "mpirun":
        found = [hosts.Host("localhost", options.ranks)]
    return lines.Plan(options.ranks, found, options.variables, _command_of(options),
                      options.prefix_output, options.allow_run_as_root,
                      shlex.split(options.launcher_args))


def _show_local(plan):
    place = " ".join(f"{name}={value}" for name, value in processes.rank_variables(
        "R", plan.ranks, "free", "random", 0).items())
    given = "".join(shlex.quote(text) + " " for text in plan.variables if "=" in text)
    return f"for R in 0..{plan.ranks - 1}: {place} {given}{shlex.join(plan.command)}"


def _run_local(options, plan, found):
    if not _is_one_host(found):
        strangers = [host.name for host in found if not hosts.is_local(host.name)]
        raise ValueError(f"--launcher local starts ranks on this host only, and the hosts have "
                         f"{', '.join(strangers)}; take --launcher mpirun")
    if plan.launcher_arguments:
        raise ValueError("--launcher-args are for mpirun or srun, and the launcher is local; leave "
                         "them out, or name one by --launcher")
    if options.dry_run or options.verbose:
        print(_show_local(plan), flush=True)
    if options.dry_run:
        return 0
    return asyncio.run(processes.run_ranks(plan, os.environ, _tell))


def _run_line(options, plan, name):
    launcher = lines.find_launcher(name)
    environment = lines.launch_environment(launcher, os.environ)
    line = lines.launch_line(launcher, plan, environment, os.geteuid())
    if options.dry_run or options.verbose:
        print(shlex.join(line), flush=True)
    if options.dry_run:
        return 0
    os.execvpe(line[0], line, environment)  # Signals, output and exit code are then its own.


def _tell(text):
    with processes.reader_may_go(sys.stderr):
        print(f"scalecomrun: {text}", file=sys.stderr, flush=True)


def _run(options, parser):
    if options.check_build:
        return subprocess.run([_library.prefix() / "bin" / "scalecom-info"]).returncode
    found = _hosts_of(options)
    if _is_elastic(options):
        return _run_elastic(options, found)
    _check_not_elastic(options, parser)
    launcher = _choose_launcher(options, found, os.environ)
    plan = _make_plan(options, found, launcher)
    if launcher == "local":
        return _run_local(options, plan, found)
    return _run_line(options, plan, launcher)


def main():
    """Exit code: that of the ranks; 2 for wrong arguments."""
    parser = _make_parser()
    options = parser.parse_args()
    try:
        return _run(options, parser)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
