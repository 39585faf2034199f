"""Which test networks exist on this machine, whose they are, and how one is removed.

Each run owns a number. Its names follow from the number and are written down, with the owner's
process, before the first of them is made. So whoever finds a record of a dead owner can remove
exactly what that run made, and nothing is looked for by pattern.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess

from waiting import CommandError, end_processes, run_short

RECORDS = pathlib.Path("/run/scalecom-netlab")
NAMESPACES = pathlib.Path("/run/netns")
HOST_FILES = pathlib.Path("/etc/netns")
NUMBERS = 256  # One /24 of 10.77.0.0/16 each.
LOCK_LIMIT_S = 60
PATIENCE_S = 1  # What still runs now has outlived its command.


@dataclasses.dataclass(frozen=True)
class Record:
    """What one run makes, and the process that owns it (start_ticks: since the machine's boot)."""

    number: int
    pid: int
    start_ticks: int
    wire: str
    hosts: list

    @property
    def path(self):
        return RECORDS / f"{self.number}.json"

    @property
    def folder(self):
        """For the files of the run; made by the run, in a folder that only root may enter."""
        return RECORDS / f"{self.number}.files"

    def is_owner_alive(self):
        return start_ticks(self.pid) == self.start_ticks

    def is_free(self):
        """Nobody else has anything of these names."""
        return not (self.path.exists() or self.folder.exists()) and not any(
            (NAMESPACES / name).exists() or (HOST_FILES / name).exists()
            for name in (self.wire, *self.hosts))


def start_ticks(pid):
    """When a process began, in clock ticks since boot; None where there is none (or a zombie)."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


@contextlib.contextmanager
def locked_records():
    """One run at a time claims a number or removes the leftovers of others."""
    RECORDS.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(RECORDS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # The lock belongs to the open folder, which both processes share; flock(2) has no deadline.
        got = subprocess.run(["flock", "-w", str(LOCK_LIMIT_S), str(descriptor)],
                             pass_fds=[descriptor], start_new_session=True)
        if got.returncode != 0:
            raise CommandError(f"{RECORDS} was locked by another run for {LOCK_LIMIT_S} s; see "
                               f"which with: fuser {RECORDS}")
        yield
    finally:
        os.close(descriptor)


def all_records():
    return [Record(**json.loads(path.read_text())) for path in sorted(RECORDS.glob("*.json"))]


def claim(hosts):
    """A Record for this process, under a number that nothing bears; removes dead runs first."""
    with locked_records():
        remove_dead_runs()
        for number in range(NUMBERS):
            prefix = f"netlab{number}"
            record = Record(number, os.getpid(), start_ticks(os.getpid()), f"{prefix}wire",
                            [f"{prefix}h{host}" for host in range(hosts)])
            if record.is_free():
                part = record.path.with_suffix(".part")
                part.write_text(json.dumps(dataclasses.asdict(record)))
                part.rename(record.path)
                return record
    raise CommandError(f"all {NUMBERS} numbers of test networks are taken; end some of those that "
                       f"{RECORDS} lists")


def remove_dead_runs():
    """Removes what owners that are gone have left; returns their records. Needs the lock."""
    dead = [record for record in all_records() if not record.is_owner_alive()]
    for record in dead:
        remove(record)
    return dead


def processes_in(namespaces):
    return sorted({int(pid) for name in namespaces if (NAMESPACES / name).exists()
                   for pid in run_short("ip", "netns", "pids", name).split()})


def remove(record):
    """Ends what runs in a network and removes the network, however little of it was made."""
    namespaces = [*record.hosts, record.wire]
    for _ in range(5):  # A process may have started another while it was ended.
        running = processes_in(namespaces)
        if not running:
            break
        end_processes(running, PATIENCE_S)
    problems = []
    for name in namespaces:
        try:
            if (NAMESPACES / name).exists():
                run_short("ip", "netns", "del", name)
            (HOST_FILES / name / "hosts").unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                (HOST_FILES / name).rmdir()
        except (CommandError, OSError) as error:
            problems.append(str(error))
    with contextlib.suppress(OSError):
        HOST_FILES.rmdir()  # Only if it is empty: another run's names may be in it.
    shutil.rmtree(record.folder, ignore_errors=True)
    if problems:
        raise CommandError("not everything could be removed; tools/netlab/netlab --clean tries "
                           "again: " + "; ".join(problems))
    record.path.unlink(missing_ok=True)
