"""The test network: hosts that are network namespaces, joined by a bridge or a switch that delays.

    host namespace netlab3h0          wire namespace netlab3wire         netlab3h1
    eth0 10.77.3.1, tbf on egress --- port0  [bridge or switch]  port1 --- eth0 10.77.3.2
      or fd77:3::1                                                           or fd77:3::2

Nothing of it is in the machine's own network namespace, so no address or device can collide there.
"""

import dataclasses
import pathlib
import shlex
import subprocess

import registry
from waiting import read_until, run_short

ENTER = pathlib.Path(__file__).resolve().parent / "enter"
INTERFACE = "eth0"
READY_LIMIT_S = 20
BURST_BYTES_MIN = 65536
MTU_ETHERNET = 1500
MTU_UNLIMITED = 65000  # Where no rate is to be held, fewer packets measure more of the programs.


@dataclasses.dataclass(frozen=True)
class Link:
    """What each host's link is like. All times are one way; no rate is no limit."""

    rate_bit_s: int = None
    latency_us: float = 0.0
    jitter_us: float = 0.0
    loss_percent: float = 0.0
    is_ipv6: bool = False  # And nothing else.

    @property
    def needs_switch(self):
        return any((self.latency_us, self.jitter_us, self.loss_percent))

    @property
    def burst_bytes(self):
        """What the token bucket holds. With less than 2 ms of the rate the link is slower than it:
        TCP hands over 64 KiB at a time, and the bucket fills when a processor comes to it."""
        return max(BURST_BYTES_MIN, self.rate_bit_s // 8 // 500)

    @property
    def mtu(self):
        return MTU_ETHERNET if self.rate_bit_s or self.loss_percent else MTU_UNLIMITED


class Lab:
    """A test network of this process. Made empty; remove() it whatever happens after that."""

    def __init__(self, hosts, link, stop_signals):
        self.link = link
        self.record = registry.claim(hosts)
        self.hosts = self.record.hosts
        self.switch = None
        self._stop_signals = stop_signals

    def address(self, host):
        if self.link.is_ipv6:
            return f"fd77:{self.record.number:x}::{host + 1:x}"
        return f"10.77.{self.record.number}.{host + 1}"

    def build(self, switch_program):
        """Stopped or CommandError may come at any step, and remove() copes with what is there."""
        self.record.folder.mkdir(mode=0o700)
        self._write_host_files()
        for name in (self.record.wire, *self.hosts):
            self._step("ip", "netns", "add", name)
            self._step("ip", "-n", name, "link", "set", "lo", "up")
        if self.link.needs_switch:
            self._join_by_switch(switch_program)
        else:
            self._join_by_bridge()
        for host, name in enumerate(self.hosts):
            self._set_up_interface(host, name)

    def remove(self):
        if self.switch:
            self.switch.stdin.close()  # It ends by that, and its devices with it.
        registry.remove(self.record)
        if self.switch:
            self.switch.wait(READY_LIMIT_S)
            self.switch.stdout.close()

    def enter(self, host, command, **options):
        """Starts a command (words) on a host, as a child that Popen's options shape."""
        line = "exec " + shlex.join(str(word) for word in command)
        return subprocess.Popen([ENTER, self.hosts[host], line], **options)

    def _step(self, *command):
        self._stop_signals.check()
        run_short(*command)

    def _write_host_files(self):
        """`ip netns exec` puts /etc/netns/NAME/hosts in place of /etc/hosts."""
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        lines += [f"{self.address(host)} {name} h{host}" for host, name in enumerate(self.hosts)]
        for name in self.hosts:
            folder = registry.HOST_FILES / name
            folder.mkdir(parents=True)
            (folder / "hosts").write_text("\n".join(lines) + "\n")

    def _join_by_bridge(self):
        wire = self.record.wire
        self._step("ip", "-n", wire, "link", "add", "bridge", "type", "bridge")
        self._step("ip", "-n", wire, "link", "set", "bridge", "mtu", self.link.mtu, "up")
        for host, name in enumerate(self.hosts):
            port = f"port{host}"
            self._step("ip", "-n", wire, "link", "add", port, "type", "veth", "peer", "name",
                       INTERFACE, "netns", name)
            self._step("ip", "-n", wire, "link", "set", port, "mtu", self.link.mtu, "master",
                       "bridge", "up")

    def _join_by_switch(self, program):
        wire = self.record.wire
        self.switch = subprocess.Popen(
            ["ip", "netns", "exec", wire, program, "--ports", str(len(self.hosts)),
             "--latency-us", str(self.link.latency_us), "--jitter-us", str(self.link.jitter_us),
             "--loss-percent", str(self.link.loss_percent)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True)
        read_until(self._stop_signals, self.switch, b"ready", READY_LIMIT_S, "the switch")
        for host, name in enumerate(self.hosts):
            self._step("ip", "-n", wire, "link", "set", f"port{host}", "netns", name, "name",
                       INTERFACE)

    def _set_up_interface(self, host, name):
        self._step("ip", "-n", name, "link", "set", INTERFACE, "mtu", self.link.mtu, "up")
        # An IPv6 address is used at once, without a search for another host that has it.
        length = ["/64", "nodad"] if self.link.is_ipv6 else ["/24"]
        self._step("ip", "-n", name, "addr", "add", self.address(host) + length[0], *length[1:],
                   "dev", INTERFACE)
        if self.link.rate_bit_s:
            self._step("tc", "-n", name, "qdisc", "add", "dev", INTERFACE, "root", "tbf", "rate",
                       f"{self.link.rate_bit_s}", "burst", self.link.burst_bytes, "limit", "4mb")
