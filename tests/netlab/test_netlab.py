"""tools/netlab: hosts are hosts, links are as asked for, and nothing is left behind."""

import json
import os
import re
import select
import signal
import subprocess
import time

import pytest

from conftest import built, finish, own_processes, run, start, traces

INFO = "info/scalecom-info"
BENCH = "bench/scalecom-bench"

pytestmark = pytest.mark.usefixtures("leaves_nothing")


def round_trip_ms(output):
    """Median of a ping's round trips; the first also asks for the address."""
    times = sorted(float(text) for text in re.findall(r"time=([\d.]+) ms", output)[1:])
    assert times, output
    return times[len(times) // 2]


def wait_for_output(process, wanted):
    """Reads until the words have come; returns all that came."""
    seen = b""
    deadline = time.monotonic() + 30
    while wanted.encode() not in seen:
        left_s = deadline - time.monotonic()
        readable, _, _ = select.select([process.stdout], [], [], max(0, left_s))
        assert readable, f"no {wanted!r} within 30 s, but {seen!r}"
        part = os.read(process.stdout.fileno(), 4096)
        assert part, f"netlab ended before it said {wanted!r}: {seen!r}, {process.stderr.read()}"
        seen += part
    return seen.decode()


def test_hosts_reach_each_other_by_name():
    output = run("--hosts", 3, "--on", 1, "--", "sh", "-c",
                 "ping -q -c 1 h0 && ping -q -c 1 h2 && echo $NETLAB_HOSTS && hostname")
    assert output.count("1 received") == 2
    *_, hosts, host = output.split()
    assert hosts.split(",")[1] == host


def test_each_host_has_its_own_name_and_shared_memory():
    output = run("--hosts", 2, "--ranks-per-host", 2, "--", "sh", "-c",
                 "echo $(hostname) has $(stat -c %d /dev/shm) and not $0",
                 os.stat("/dev/shm").st_dev)
    lines = re.findall(r"(netlab\d+h\d) has (\d+) and not (\d+)", output)
    assert len(lines) == 4
    assert len({host for host, _, _ in lines}) == 2
    assert len({device for _, device, _ in lines}) == 2
    assert len(set(lines)) == 2, "ranks of one host have the same"
    assert all(device != machines for _, device, machines in lines)


@pytest.mark.parametrize("network", [(), ("--ipv6",)])
def test_ranks_see_two_hosts_of_two(network):
    info = json.loads(run("--hosts", 2, *network, "--ranks-per-host", 2, "--", built(INFO),
                          "--json"))
    session = info["session"]
    assert (session["size"], session["local_size"], session["cross_size"]) == (4, 2, 2)
    assert len(set(session["hosts"])) == 2


def test_settings_and_parameters_of_mpi_reach_the_ranks():
    output = run("--hosts", 2, "--mca", "btl_tcp_links", "3", "-x", "OF_THE_TEST=7", "--",
                 "sh", "-c", "echo $SCALECOM_QUEUE_CAPACITY $OMPI_MCA_btl_tcp_links $OF_THE_TEST",
                 env={"SCALECOM_QUEUE_CAPACITY": "1234"})
    assert re.findall(r"1234 3 7", output) == ["1234 3 7"] * 2


def test_an_all_reduce_between_hosts_is_right():
    output = run("--hosts", 2, "--ranks-per-host", 2, "--rate", "500mbit", "--",
                 built(BENCH), "all_reduce", "-b", "8", "-e", "1M", "-f", "64", "-n", "3",
                 "-w", "1")
    assert "Out of bounds values : 0 OK" in output


def test_exit_code_is_the_commands():
    run("--hosts", 1, "--on", 0, "--", "sh", "-c", "exit 5", code=5)
    run("--hosts", 2, "--", "sh", "-c", "exit 6", code=6)
    run("--hosts", 1, "--on", 0, "--", "sh", "-c", "kill -9 $$", code=137)


def test_the_rate_holds_in_both_directions_at_once():
    report = json.loads(run("--rate", "100mbit", "--iperf", "--iperf-s", 2, "--json"))
    assert len(report["flows"]) == 2
    for flow in report["flows"]:
        assert 0.75 < flow["bytes_per_s"] * 8 / 100e6 < 1.05, report


def test_every_host_of_a_ring_sends_at_its_rate():
    report = json.loads(run("--hosts", 3, "--rate", "50mbit", "--iperf", "--iperf-s", 2, "--json"))
    hosts = [flow["from"] for flow in report["flows"]]
    assert [flow["to"] for flow in report["flows"]] == hosts[1:] + hosts[:1]
    for flow in report["flows"]:
        assert 0.75 < flow["bytes_per_s"] * 8 / 50e6 < 1.05, report


def test_latency_shows_in_the_round_trip():
    ping = ("--on", 0, "--", "ping", "-c", 12, "-i", "0.05", "h1")
    assert round_trip_ms(run(*ping)) < 2.0
    assert 10.0 <= round_trip_ms(run("--latency-us", 5000, *ping)) < 15.0


def test_jitter_only_adds():
    output = run("--latency-us", 2000, "--jitter-us", 8000, "--on", 0, "--",
                 "ping", "-c", 25, "-i", "0.05", "h1")
    times = sorted(float(text) for text in re.findall(r"time=([\d.]+) ms", output)[1:])
    assert times[0] >= 4.0
    # The middle half, because a busy machine's stragglers would vary without any jitter.
    assert times[18] - times[6] > 1.0, "24 round trips with 0 to 16 ms added vary by more"


def test_the_rate_holds_behind_the_switch():
    report = json.loads(run("--latency-us", 200, "--rate", "100mbit", "--iperf", "--iperf-s", 2,
                            "--json"))
    for flow in report["flows"]:
        assert 0.75 < flow["bytes_per_s"] * 8 / 100e6 < 1.05, report


def test_packets_are_lost_at_the_rate_asked_for():
    output = run("--loss-percent", 20, "--on", 0, "--", "sh", "-c",
                 "ping -q -c 300 -i 0.005 -W 1 h1 || true")
    lost = float(re.search(r"([\d.]+)% packet loss", output).group(1))
    assert 24 < lost < 48, "36 % of the round trips lose one of two packets"


def test_mpi_runs_behind_the_switch():
    output = run("--latency-us", 100, "--", built(BENCH), "all_reduce", "-b", "4", "-e", "64K",
                 "-f", "128", "-n", "3", "-w", "1")
    assert "Out of bounds values : 0 OK" in output


def test_two_networks_at_once_do_not_meet():
    show = ("--on", 0, "--", "sh", "-c",
            "hostname; ip -4 -o addr show eth0; echo shown; exec sleep $0")
    first = start(*show, "100")
    shown = wait_for_output(first, "shown")
    second_shown = run(*show, "0")
    assert shown.split()[0] != second_shown.split()[0]
    addresses = [re.search(r"inet (\S+)", text).group(1) for text in (shown, second_shown)]
    assert addresses[0] != addresses[1]
    run("--clean")
    assert first.poll() is None, "neither another network nor --clean touches a living run"
    first.terminate()
    finish(first)
    assert first.returncode == 128 + signal.SIGTERM


def test_the_limit_ends_the_command():
    begin = time.monotonic()
    run("--limit-s", 1, "--", "sleep", "100", code=124)
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(number):
    process = start("--ranks-per-host", 2, "--latency-us", 100, "--", "sh", "-c",
                    "echo running; trap '' INT TERM; sleep 100; sleep 100")
    wait_for_output(process, "running")
    os.killpg(process.pid, number)  # As a terminal does: mpirun gets it, too.
    finish(process)
    assert process.returncode == 128 + number


def test_a_signal_at_any_moment_of_building_leaves_nothing():
    for moment_s in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5):
        before = traces()
        process = start("--hosts", 8, "--on", 0, "--", "sleep", "100")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(moment_s)
        os.killpg(process.pid, signal.SIGINT)
        finish(process)
        assert traces() == before, f"{moment_s} s after the start"


def test_failing_to_build_leaves_nothing(tmp_path):
    liar = tmp_path / "switch"
    liar.write_text("#!/bin/sh\necho ready\ncat > /dev/null\n")
    liar.chmod(0o755)
    for switch, reason in (("/bin/false", "ended before it was ready"), (liar, "port0")):
        process = start("--latency-us", 1, "--switch", switch, "--", "true")
        _, errors = finish(process)
        assert process.returncode == 1
        assert reason in errors


@pytest.mark.parametrize("cure", ["--clean", "the next start"])
def test_what_a_killed_run_leaves_is_removed(cure):
    process = start("--ranks-per-host", 2, "--latency-us", 100, "--", "sh", "-c",
                    "echo running; sleep 100")
    wait_for_output(process, "running")
    process.kill()
    process.wait(10)  # Its children go on and hold its output open.
    assert own_processes()
    run(*(["--clean"] if cure == "--clean" else ["--on", 0, "--", "true"]))


@pytest.mark.parametrize("wrapper, path, obstacle", [
    (["setpriv", "--bounding-set", "-net_admin"], None, "root lacks CAP_NET_ADMIN"),
    (["setpriv", "--reuid", "65534", "--clear-groups"], None, "only root"),
    ([], "/nonexistent", "apt-get install"),
])
def test_a_machine_that_cannot_says_so_in_one_line(wrapper, path, obstacle):
    process = start("--", "true", wrapper=wrapper, env={"PATH": path} if path else None)
    output, errors = process.communicate(timeout=30)
    if "Permission denied" in errors or "can't open file" in errors:
        pytest.skip("this tree may be read by its owner only")
    assert process.returncode == 77
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert obstacle in errors


@pytest.mark.parametrize("arguments", [
    ("--hosts", 0), ("--hosts", 65), ("--rate", "fast"), ("--rate", "0gbit"), ("--on", 2),
    ("--loss-percent", 101), ("--latency-us", "nan"),
])
def test_wrong_arguments_are_refused_with_what_is_allowed(arguments):
    process = start(*arguments, "--", "true")
    _, errors = finish(process)
    assert process.returncode == 2
    assert "allowed are" in errors
