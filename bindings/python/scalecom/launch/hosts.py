"""Hosts, the ranks that each of them has room for, their addresses, and free ports of this one."""

import functools
import ipaddress
import pathlib
import re
import socket
from typing import NamedTuple


class Host(NamedTuple):
    name: str
    slots: int  # Ranks that it has room for.


def free_port():
    """A TCP port of this host that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def is_reachable(address):
    """Whether other hosts may reach one by a numeric address, IPv4 or IPv6: not by a loopback one,
    nor by a link-local one of IPv6, which each of them knows by an interface of its own."""
    number = ipaddress.ip_address(address)
    return not (number.is_loopback or (number.version == 6 and number.is_link_local))


def in_place(address):
    """A numeric address as "address:port" has it."""
    return f"[{address}]" if ":" in address else address


def _make_host(name, slots, source):
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or name.startswith("-"):
        raise ValueError(f"{source} has {name}:{slots}; allowed are a host's name and 1 slot or "
                         "more, such as node1:4")
    return Host(name, int(slots))


def _parse_host(text, source, default_slots):
    match = re.fullmatch(r"([^\s:=]+)(?:\s*:\s*(\d+)|\s+slots\s*=\s*(\d+).*)?", text.strip())
    if match is None:
        raise ValueError(f"{source} has {text.strip()!r}; allowed are host, host:slots and, in a "
                         "file, host slots=N; a host with an IPv6 address needs a name that leads "
                         "to it (/etc/hosts)")
    return _make_host(match[1], match[2] or match[3] or default_slots, source)


def _checked(hosts, source):
    names = [host.name for host in hosts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{source} has {', '.join(twice)} more than once; give each host all its "
                         "slots at one place")
    return hosts


def parse_hosts(text):
    """Hosts of -H: "host:slots,host:slots". ValueError for what is none."""
    found = [_parse_host(part, "-H", 1) for part in text.split(",")]
    for host in found:
        if host.slots < 1:
            raise ValueError(f"-H has {host.name}:0; leave it out, or give it 1 slot or more")
    return _checked(found, "-H")


def parse_lines(text, source, default_slots=1):
    """Hosts of a file or of a discovery script's output, one a line: "host", "host:slots" or
    "host slots=N". What follows a # does not count, nor does a host with 0 slots."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    found = [_parse_host(line, f"line {number} of {source}", default_slots)
             for number, line in enumerate(lines, 1) if line]
    return _checked([host for host in found if host.slots > 0], source)


def read_file(path):
    """Hosts of a file, as parse_lines() has them; ValueError where it cannot be read or has none."""
    try:
        text = pathlib.Path(path).read_text()
    except OSError as error:
        raise ValueError(f"the hostfile {path or repr(path)} cannot be read: {error.strerror}") from error
    found = parse_lines(text, path)
    if not found:
        raise ValueError(f"the hostfile {path} has no host")
    return found


def join(hosts, between=","):
    """As -H takes them."""
    return between.join(f"{host.name}:{host.slots}" for host in hosts)


def show(hosts):
    return join(hosts, ", ") or "none"


def check_one_local(hosts, source):
    """ValueError where several of them are this host."""
    own = [host.name for host in hosts if is_local(host.name)]
    if len(own) > 1:
        raise ValueError(f"{source} has {' and '.join(own)}, which are all this host; give it all its "
                         "slots by one name")


def is_local(name):
    """Whether a name is one by which this host is commonly called: its own, also with a domain, and its
    addresses. No name server is asked about others."""
    own = socket.gethostname()
    short = own.partition(".")[0]
    if name in ("localhost", own, short):
        return True
    is_asked = name.startswith(f"{short}.") or re.fullmatch(r"\d+(\.\d+){3}", name)
    return bool(is_asked) and leads_here(name)


@functools.lru_cache(maxsize=1024)
def leads_here(name):
    """Whether a name's first address is this host's, from which its own packets to it come."""
    try:
        (family, kind, _, _, place), *_ = socket.getaddrinfo(name, 9, type=socket.SOCK_DGRAM)
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # Sends nothing.
            own = probe.getsockname()[0]
    except OSError:
        return False
    return own == place[0] or ipaddress.ip_address(place[0]).is_loopback
