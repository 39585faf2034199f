"""Test networks for the tests; they skip with netlab's own words where it cannot make one."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import uuid

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NETLAB = ROOT / "tools" / "netlab" / "netlab"
TOOLS = ROOT / "build" / "release" / "tools"
RECORDS = pathlib.Path("/run/scalecom-netlab")
CANNOT_HERE = 77
LIMIT_S = 60
MARK = f"NETLAB_TEST={uuid.uuid4()}"  # In the environment of everything that the tests start.


def environment(extra=None):
    """Without settings that the caller's shell happens to have."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("SCALECOM_", "HOROVOD_", "NETLAB_"))}
    name, value = MARK.split("=")
    return {**kept, "OMP_NUM_THREADS": "1", name: value, **(extra or {})}


def start(*arguments, env=None, wrapper=()):
    """netlab as a child in a session of its own, as a terminal would have it."""
    words = [*wrapper, sys.executable, NETLAB, *(str(word) for word in arguments)]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=True,
                            env=environment(env))


def finish(process):
    """Output and errors of a netlab once it has ended; it skips the test where it cannot run."""
    try:
        output, errors = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.terminate()  # It removes its network.
        output, errors = process.communicate(timeout=LIMIT_S)
        pytest.fail(f"netlab did not end within {LIMIT_S} s:\n{output}\n{errors}")
    if process.returncode == CANNOT_HERE:
        pytest.skip(errors.strip().splitlines()[-1])
    return output, errors


def run(*arguments, code=0, env=None):
    """Standard output of a netlab that has to end with this exit code."""
    process = start(*arguments, env=env)
    output, errors = finish(process)
    assert process.returncode == code, f"exit code {process.returncode}\n{output}\n{errors}"
    return output


def built(program):
    """A program of the release build, below its tools folder; skips where it is not built."""
    path = TOOLS / program
    if not path.exists():
        pytest.skip(f"{path.name} is not built (cmake --build --preset release)")
    return path


def ip(*arguments):
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30).stdout


def numbers_of_others():
    """Networks with a living owner. Between two tests none of them is the tests' own."""
    numbers = set()
    for path in RECORDS.glob("*.json"):
        with contextlib.suppress(FileNotFoundError):
            if pathlib.Path(f"/proc/{json.loads(path.read_text())['pid']}").exists():
                numbers.add(path.stem)
    return numbers


def names_in(folder):
    path = pathlib.Path(folder)
    return sorted(entry.name for entry in path.iterdir()) if path.exists() else []


def own_processes():
    """Command lines of what descends from these tests' netlabs, wherever it has gone since."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if MARK.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


def traces():
    """What networks of these tests could leave on this machine, to be compared before and after."""
    others = numbers_of_others()

    def own(names):
        return [name for name in names
                if (number := re.search(r"netlab(\d+)|^(\d+)\.", name)) is None
                or (number.group(1) or number.group(2)) not in others]

    return {
        "namespaces": own(names_in("/run/netns")),
        "devices and addresses": ip("-brief", "address").split(),
        "host files": own(names_in("/etc/netns")),
        "records": own(names_in(RECORDS)),
        "shared memory": own(name for name in names_in("/dev/shm") if "netlab" in name),
        "sessions of Open MPI": own(name for name in names_in(tempfile.gettempdir())
                                    if name.startswith("ompi.netlab")),
        "processes": own_processes(),
    }


@pytest.fixture
def leaves_nothing():
    """The machine is after the test as it was before."""
    before = traces()
    yield
    assert traces() == before


@pytest.fixture(scope="session", autouse=True)
def can_run_here():
    """One look for all tests: a network of one host."""
    run("--hosts", 1, "--on", 0, "--", "true")
