"""What the test network carries, by iperf3: every host sends to its right neighbour at once.

With two hosts that is both directions of one link at the same time.
"""

import json
import subprocess
import time

from waiting import CommandError, end_processes, read_until

READY_LIMIT_S = 20
END_LIMIT_S = 20  # Beyond the measurement itself.
PORT = 5201


def measure_ring(lab, seconds, stop_signals):
    """Bytes/s that arrived, for each flow: [{"from", "to" (hosts), "bytes_per_s"}].

    The first second, in which TCP finds its window and the token bucket is full, does not count.
    """
    hosts = range(len(lab.hosts))
    started = []
    try:
        for host in hosts:
            server = _start(lab, host, "-s", "-1", "-i", "0", "--forceflush")
            started.append(server)
            read_until(stop_signals, server, b"listening", READY_LIMIT_S,
                       f"iperf3's server on {lab.hosts[host]}")
        clients = [_start(lab, host, "-c", lab.hosts[_right_of(lab, host)], "-t", str(seconds),
                          "-O", "1", "--json") for host in hosts]
        started += clients
        deadline = time.monotonic() + seconds + 1 + END_LIMIT_S
        outputs = [_read_all(client, deadline, stop_signals) for client in clients]
        for server in started[:len(lab.hosts)]:  # Each serves one client and ends by itself.
            stop_signals.wait_ended([server], deadline)
    finally:
        end_processes([process.pid for process in started if process.poll() is None], 1)
        for process in started:
            process.wait()
            process.stdout.close()
    return [{"from": lab.hosts[host], "to": lab.hosts[_right_of(lab, host)],
             "bytes_per_s": _bytes_per_s(output, lab.hosts[host])}
            for host, output in zip(hosts, outputs)]


def _right_of(lab, host):
    return (host + 1) % len(lab.hosts)


def _start(lab, host, *arguments):
    return lab.enter(host, ["iperf3", "-p", str(PORT), *arguments], stdout=subprocess.PIPE,
                     bufsize=0, stdin=subprocess.DEVNULL, start_new_session=True)


def _read_all(process, deadline, stop_signals):
    parts = []
    while stop_signals.wait_readable([process.stdout], deadline):
        part = process.stdout.read(65536)
        if not part:
            return b"".join(parts)
        parts.append(part)
    raise CommandError("iperf3 did not end in time")


def _bytes_per_s(output, host):
    try:
        report = json.loads(output)
    except ValueError:
        raise CommandError(f"iperf3 on {host} gave no report: {output[:200]!r}") from None
    if "error" in report:
        raise CommandError(f"iperf3 on {host}: {report['error']}")
    return report["end"]["sum_received"]["bits_per_second"] / 8


def print_flows(flows):
    for flow in flows:
        rate = flow["bytes_per_s"]
        print(f"{flow['from']} -> {flow['to']}: {rate / 1e9:.4f} GB/s ({rate * 8e-9:.3f} Gbit/s)",
              flush=True)
