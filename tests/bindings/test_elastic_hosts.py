"""Elastic jobs on several hosts: network namespaces with host names of their own (tools/netlab), the
driver on host 0, and netlab's `enter` as the remote shell, as its mpirun has it."""

import asyncio
import contextlib
import io
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest
import scalecom
from jobs import HERE, has_ipv6, is_alive, rank_environment, run_limited
from test_elastic import GO_ON_S_MAX, ElasticJob, check_resets, check_training

from scalecom import _library, worker
from scalecom.launch import host_links, hosts

NETLAB = HERE.parent.parent / "tools" / "netlab"
LIMIT_S = 150.0
# Alone, where there is IPv6: other tests have IPv4.
IPV6 = ("--ipv6",) if has_ipv6() else ()


class HostsJob(ElasticJob):
    """An elastic job on 3 hosts; set_hosts() says which it has, and break_host() is a shell that
    does not get there. network: words for netlab."""

    def __init__(self, folder, hosts, *options, network=(), **training):
        self._there = folder
        self.set_hosts(hosts)
        super().__init__(folder, "--host-discovery-script", str(self._write_discovery()),
                         "--remote-shell", str(self._write_shell()), *options, limit=LIMIT_S,
                         wrapper=[sys.executable, str(NETLAB / "netlab"), "--hosts", "3",
                                  *network, "--on", "0", "--"], steps=100_000, pause=0.02, **training)

    def set_hosts(self, text):
        """text: "0:2 1:1", hosts by their numbers."""
        part = self._there / "hosts.part"
        part.write_text("\n".join(text.split()) + "\n")
        part.rename(self._there / "hosts")

    def break_host(self, number):
        (self._there / f"broken{number}").touch()

    def mend_host(self, number):
        (self._there / f"broken{number}").unlink()

    def _write(self, name, text):
        path = self._there / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def _write_discovery(self):
        return self._write("discover", f'sed "s/^\\([0-9]\\)/${{NETLAB_HOSTS%%h0*}}h\\1/" '
                                       f"{self._there / 'hosts'}")

    def _write_shell(self):
        return self._write("shell", f"""if [ -e {self._there}/broken${{1##*h}} ]; then
  echo "no route to $1" >&2
  exit 255
fi
echo "Welcome to $1"
exec {NETLAB / 'enter'} "$@" """)

    def processes(self, number):
        """What runs on a host."""
        host = next(line["host"] for line in self.lines() if line["host"].endswith(f"h{number}"))
        found = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True,
                               timeout=30, check=True)
        return [int(pid) for pid in found.stdout.split()]

    def find(self, number, word):
        """Processes of a host with a word in their command line."""
        return [pid for pid in self.processes(number)
                if word.encode() in command_line(pid).split(b"\0")]

    def send_to(self, pids, number):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # It may have ended with one before it.
                os.kill(pid, number)

    def wait_for_output(self, pattern):
        """While the journal grows."""
        self.wait_for(lambda _: re.search(pattern, self.output()))


@pytest.fixture
def needs_network():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")


@pytest.fixture
def start(tmp_path, needs_network):
    """start(hosts, *options) -> a HostsJob, ended with the test."""
    jobs = []

    def begin(*arguments, **named):
        jobs.append(HostsJob(tmp_path, *arguments, **named))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.process.terminate()
        job.process.wait(60)


def secrets_of(pid):
    """What only the owner of a rank may know."""
    parts = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return [part.split(b"=", 1)[1] for part in parts
            if part.startswith((b"SCALECOM_RENDEZVOUS_KEY=", b"SCALECOM_ELASTIC_SECRET="))]


def command_line(pid):
    """Empty where the process has ended meanwhile."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def all_command_lines():
    return b"\n".join(command_line(path.name) for path in pathlib.Path("/proc").glob("[0-9]*"))


def test_a_lost_host_is_left_tried_again_and_taken_in(start):
    job = start("0:1 1:1 2:1", "--min-np", "2", "--max-np", "3", "--blacklist-cooldown-range",
                "1", "4")
    line = job.steps_of(size=3)
    assert len({one["host"] for one in job.lines() if one["size"] == 3}) == 3
    known = secrets_of(line["pid"])
    assert len(known) == 2 and not any(one in all_command_lines() for one in known)
    job.break_host(1)
    lost = job.processes(1)
    killed_at = time.monotonic()
    job.send_to(lost, signal.SIGKILL)
    goes_on = job.steps_of(size=2, since=killed_at)
    assert goes_on["time"] - killed_at < GO_ON_S_MAX
    job.wait_for_output(r"h1 is put aside for 1 s: its remote shell was ended by SIGKILL")
    job.wait_for_output(r"h1 is put aside for 2 s: its remote shell ended with exit code 255")
    job.wait_for_output(r"h1 is put aside for 4 s: .*exit code 255")
    job.mend_host(1)
    back = job.wait_for(lambda line: line["size"] == 3 and line["time"] > goes_on["time"]
                        and "step" in line and line["host"].endswith("h1"))
    assert back["local_rank"] == 0 and back["step"] > goes_on["step"]
    lines = job.lines()
    check_training(lines)
    check_resets(lines)

    # Without the driver nothing stays.
    ranks = {job.wait_for(lambda line: line["size"] == 3 and line["rank"] == rank
                          and line["time"] > goes_on["time"])["pid"] for rank in range(3)}
    agents = job.find(1, "scalecom.launch.agent") + job.find(2, "scalecom.launch.agent")
    assert len(ranks) == 3 and len(agents) == 2
    job.send_to(job.find(0, "scalecom.run"), signal.SIGKILL)
    assert not any(is_alive(pid, within_s=15.0) for pid in [*ranks, *agents])


def test_hosts_come_and_the_one_with_the_state_goes(start):
    job = start("1:2", "--min-np", "1", "--max-np", "4", network=IPV6)
    first = job.steps_of(size=2)
    assert first["host"].endswith("h1")
    job.set_hosts("1:2 2:none")
    job.wait_for_output(r"the hosts stay as they are: line 2 of .*discover has '.*h2:none'; allowed")
    job.set_hosts("1:2 2:1")
    grown = job.steps_of(size=3, since=first["time"])
    job.set_hosts("2:1")
    left = job.steps_of(size=1, since=grown["time"])
    assert left["host"].endswith("h2") and left["step"] > grown["step"]
    job.set_hosts("0:1")  # All that have the state go at once.
    moved = job.wait_for(lambda line: "step" in line and line["host"].endswith("h0")
                         and line["size"] == 1)
    assert moved["step"] > left["step"]
    lines = job.lines()
    check_training(lines)
    check_resets(lines)
    assert {line["local_rank"] for line in lines if line["host"].endswith("h1")} == {0, 1}


def test_a_host_that_is_silent_is_left(start):
    job = start("0:1 1:1", "--min-np", "1", "--max-np", "2", "--host-timeout", "5", network=IPV6)
    line = job.steps_of(size=2)
    agents = job.find(1, "scalecom.launch.agent")
    lost = job.find(1, str(HERE / "scripts" / "elastic_training.py"))
    assert len(agents) == 1 and len(lost) == 1
    job.break_host(1)
    job.send_to(agents, signal.SIGSTOP)
    job.steps_of(size=1, since=line["time"])
    assert re.search(r"h1 is put aside for 10 s: it was silent for 5 s", job.output())
    assert not any(is_alive(pid, within_s=15.0) for pid in lost)
    check_training(job.lines())


@pytest.mark.parametrize("network", [(), IPV6])
def test_a_host_is_known_by_its_own_address(needs_network, network):
    code = ("import socket, sys; from scalecom.launch import hosts\n"
            "own = socket.gethostname(); found = socket.getaddrinfo(own, 1)[0][4][0]\n"
            "other = socket.getaddrinfo('h1', 1)[0][4][0]\n"
            "print('known:', [hosts.leads_here(name) for name in (own, found, other, 'h1', 'h0')])\n"
            "print('local:', [hosts.is_local(name) for name in (found, other)])")
    status, output = run_limited([sys.executable, str(NETLAB / "netlab"), "--hosts", "2", *network, "--on", "0",
                                  "--", sys.executable, "-c", code], 60, env=rank_environment())
    assert status == 0 and "known: [True, True, False, False, True]" in output, output
    assert network or "local: [True, False]" in output, output


def test_this_host_is_known_by_its_full_name(monkeypatch):
    """A name server is asked about names that begin as this host's own does, and about no others."""
    def find(name, *arguments, **named):
        assert name.startswith(("node1.", "127."))
        return ask(addresses[name], *arguments, **named)

    ask, addresses = socket.getaddrinfo, {"node1.lab": "127.0.1.1", "node1.far": "192.0.2.1",
                                          "127.0.0.9": "127.0.0.9"}
    monkeypatch.setattr(socket, "getaddrinfo", find)
    for own in ("node1", "node1.lab.example"):
        monkeypatch.setattr(socket, "gethostname", lambda: own)
        hosts.leads_here.cache_clear()
        assert all(map(hosts.is_local, ("localhost", own, "node1", "node1.lab", "127.0.0.9")))
        assert not any(map(hosts.is_local, ("node1.far", "node12", "node2", "node2.lab")))


SHELL = 'export SSH_CONNECTION="10.0.0.1 99 10.0.0.2 22"; exec sh -c "$2"'


def far_command(tmp_path, shell, code, *options, hosts="far.invalid:1"):
    """A job of one rank on hosts whose names nobody knows; its remote shell is a script."""
    path = tmp_path / "shell"
    path.write_text(f"#!/bin/sh\n{shell}\n")
    path.chmod(0o755)
    return [sys.executable, "-m", "scalecom.run", "--min-np", "1", "-np", "1", "-H", hosts,
            "--remote-shell", str(path), *options, sys.executable, "-c", code]


def run_far(tmp_path, shell, code):
    return run_limited(
        far_command(tmp_path, shell, code, "--elastic-timeout", "5", "-x", "OF_THE_TEST=a b'c",
                    "--prefix-output"), 60, env=rank_environment(), errors="replace")


def test_a_driver_whose_output_is_not_read_keeps_its_hosts(tmp_path):
    """Its rank writes more than pipes hold, and works for much longer than --host-timeout."""
    done = tmp_path / "done"
    code = ("import pathlib, time; print('x' * 100_000, flush=True); time.sleep(6);"
            f"pathlib.Path({str(done)!r}).touch()")
    process = subprocess.Popen(far_command(tmp_path, SHELL, code, "--host-timeout", "2"),
                               env=rank_environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 40
        while not done.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)  # A file tells nobody that it is there.
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0 and output == "x" * 100_000 + "\n", output[-500:]
    finally:
        process.kill()
        process.wait()


def test_variables_go_to_other_hosts_and_output_and_exit_code_come_back(tmp_path):
    """Where the host's name has no address here, what sshd tells counts."""
    status, output = run_far(
        tmp_path, 'printf "{} Welcome: "; ' + SHELL,
        "import os, sys; print(os.environ['OF_THE_TEST'], os.getcwd()); sys.stdout.flush();"
        "os.write(2, b'\\xff bad'); sys.exit(3)")
    assert status == 3 and "with exit code 3; no rank is left" in output, output
    assert f"[1] a b'c {os.getcwd()}\n" in output and "[1] \ufffd bad\n" in output


def test_what_ranks_on_other_hosts_say_last_is_not_lost(tmp_path):
    """It is more than pipes hold."""
    code = ("import signal, sys, time\n"
            "signal.signal(signal.SIGTERM, lambda *_: (print('x' * 3_000_000), sys.exit(0)))\n"
            "print('ready', flush=True)\ntime.sleep(60)")
    process = subprocess.Popen(far_command(tmp_path, SHELL, code), env=rank_environment(),
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 128 + signal.SIGTERM
        assert output.count("x") == 3_000_000
    finally:
        process.kill()
        process.wait()


def test_what_a_remote_shell_says_last_is_not_lost(tmp_path):
    """It says so somewhat later than its own process ends, and with that the writer of the pipe."""
    shell = (f"mkfifo {tmp_path}/end; {{ cat {tmp_path}/end; sleep 0.2; echo connection closed >&2; }} >/dev/null & "
             f'exec 3>{tmp_path}/end; {SHELL}')
    status, output = run_far(tmp_path, shell, "pass")
    assert status == 0 and output == "far.invalid: connection closed\n", output


def test_what_a_login_that_hangs_has_said_is_told(monkeypatch):
    async def read():
        link = host_links.RemoteLink("far", [], {"silence_s": 1.0}, None)
        link._process = types.SimpleNamespace(stdout=asyncio.StreamReader())
        link._process.stdout.feed_data(b"the account ends today\r\n")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(link._read_ready(), 0.1)

    told = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stderr", told)
    asyncio.run(read())
    assert told.buffer.getvalue() == b"far: the account ends today\n"


def read_until(pattern, command, environment):
    """What a job writes until a pattern is in it; it is ended then."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    limit = threading.Timer(90, process.kill)
    limit.start()
    output = ""
    try:
        while not re.search(pattern, output):
            line = process.stdout.readline()
            assert line, output
            output += line
        return output
    finally:
        limit.cancel()
        process.terminate()
        process.communicate(timeout=30)


def test_a_relative_path_of_modules_is_meant_from_here(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    command = far_command(tmp_path, f'cd {folder}; echo "$2" >&2; exit 1', "pass")
    output = read_until("env PYTHONPATH=.*\n", command, rank_environment({"PYTHONPATH": "parts:/whole"}))
    assert f"env PYTHONPATH={os.getcwd()}/parts:/whole " in output, output


def test_what_has_to_work_is_told_as_it_can_be_typed(tmp_path):
    environment = rank_environment({"PYTHONPATH": "two words"})
    command = far_command(tmp_path, 'case "$2" in *launch.agent*) exit 1;; esac; exec sh -c "$2"', "pass")
    told = "this has to work: (.*)\n"
    trial = re.search(told, read_until(told, command, environment))
    assert run_limited(["sh", "-c", trial[1]], 60, env=environment) == (0, f"scalecom {scalecom.__version__}\n")


def test_why_hosts_are_put_aside_is_told(tmp_path):
    """Each is tried when the one before it has failed."""
    known = SHELL.replace("10.0.0.2", "127.0.0.1")
    code = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    shell = f"""case "$1" in
silent.invalid) echo no key >&2; exit 255;;
closed.invalid) echo no account; exit 1;;
older.invalid) echo '{{"ready": true, "address": "-"}}'; read job;;
strange.invalid) echo '{{"ready": true, "version": "{scalecom.__version__}"}}'; read job;;
nameless.invalid) exec sh -c "$2";;
same.invalid) {known};;
*) {SHELL};;
esac"""
    remedy = rf"this has to work: {tmp_path / 'shell'} \S+ '.*{sys.executable} -m scalecom.run --version"
    reasons = {"silent": f"its remote shell ended with exit code 255; {remedy}",
               "closed": f"its remote shell ended with exit code 1; {remedy}",
               "older": f"scalecom there is another, and here {scalecom.__version__}; install the same",
               "strange": r"KeyError\('address'\)",
               "nameless": "its name has no address here",
               "same": "its address is 127.0.0.1, which other hosts take for themselves; if it is this",
               "ended": "its agent got SIGTERM"}
    hosts = ",".join(f"{name}.invalid:1" for name in reasons)
    output = read_until("ended.invalid is put aside", far_command(tmp_path, shell, code, hosts=hosts),
                        rank_environment())
    for name, reason in reasons.items():
        assert re.search(rf"{name}.invalid is put aside for 10 s: {reason}", output), output
    assert "silent.invalid: no key\n" in output and "closed.invalid: no account\n" in output, output


def test_what_keeps_ranks_from_each_other_is_told_once(monkeypatch, caplog):
    class Driver:
        meetings = 0

        def meet(self):
            self.meetings += 1

    driver, codes = Driver(), [_library.RANK_LOST, _library.RANK_LOST, _library.OK]
    monkeypatch.setattr(worker, "find_driver", lambda: driver)
    monkeypatch.setenv("RANK", "3")
    with caplog.at_level("WARNING", "scalecom"):
        code, _ = worker.join(lambda: (codes.pop(0), "no way to 10.0.0.1"))
    assert code == _library.OK and driver.meetings == 3
    assert caplog.messages == ["rank 3: the ranks meet again, since not all could connect: no way to 10.0.0.1"]
