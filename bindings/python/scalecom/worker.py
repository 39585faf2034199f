"""This process as a worker of an elastic job: its end of the connection to the driver.

scalecom/launch/agent.py is the other end, which passes on what is said to driver.py. Messages are
JSON, one a line. One thread uses it.
"""

import functools
import json
import logging
import os
import select
import socket
import struct
import sys

from scalecom import _library
from scalecom.launch import hosts, lines

# Meetings in succession that may fail because a worker was lost meanwhile.
MEETINGS_MAX = 10
_TIMEOUT_S = 10.0
_CLOSED = "scalecomrun --elastic has ended, or does not take this process for one of its workers"


class Driver:
    """The connection; ValueError where it cannot be made."""

    def __init__(self, address, secret, number):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._process = os.getpid()
        self._rest = b""
        self._has_update = False
        self.local_rank = None  # Its slot on this host, once it has met others.
        self._socket.settimeout(_TIMEOUT_S)
        try:
            self._socket.connect("\0" + address)
        except OSError as error:
            raise ValueError("scalecomrun --elastic, which started this process, cannot be reached "
                             f"({error.strerror or error}): it has ended, or this process is in "
                             "another network namespace") from error
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED,
                                              struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] != os.geteuid():
            raise ValueError(f"another user's process listens at {address}, where scalecomrun "
                             "should")
        self._send(secret=secret, worker=number)

    def _check_process(self):
        if os.getpid() != self._process:
            raise ValueError("this process was forked from a worker of scalecomrun --elastic, and is none "
                             "itself: leave init() and the elastic state to that one")

    def _send(self, **message):
        self._check_process()
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ValueError(_CLOSED) from error
        except OSError as error:
            raise ValueError(f"scalecomrun --elastic has ended: {error.strerror}") from error

    def _read(self):
        """The next message; waits for it as long as scalecomrun lives."""
        while b"\n" not in self._rest:
            try:
                block = self._socket.recv(1 << 16)
            except ConnectionResetError as error:
                raise ValueError(_CLOSED) from error
            except OSError as error:
                raise ValueError(f"scalecomrun --elastic has ended: {error.strerror}") from error
            if not block:
                raise ValueError(_CLOSED)
            self._rest += block
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def meet(self):
        """Waits for the next round, as long as the driver does (--elastic-timeout), and puts this
        process's place in it into the environment. SystemExit(0) where the job shrinks by this
        process; ValueError where it does not go on."""
        self._send(meet=hosts.free_port())  # For rank 0, if that is this process.
        self._socket.settimeout(None)
        while True:
            message = self._read()
            if message.get("dismissed"):
                sys.exit(0)
            if "refused" in message:
                raise ValueError(f"the job does not go on: {message['refused']}")
            if "variables" in message:
                os.environ.update(message["variables"])
                if "HOROVOD_HOSTNAME" in os.environ:  # scalecom.horovod serves Horovod's names here.
                    os.environ.update(lines.horovod_places(os.environ))
                self.local_rank = int(message["variables"]["LOCAL_RANK"])
                self._has_update = False
                return

    def has_update(self):
        """Whether hosts changed since the last meeting. Waits for nothing."""
        self._check_process()
        while b"\n" in self._rest or select.select([self._socket], [], [], 0)[0]:
            if self._read().get("updated"):
                self._has_update = True
        return self._has_update

    def tell_state(self):
        """This process has the state that training goes on from."""
        self._send(has_state=True)

    def tell_mismatch(self, text):
        """The program's ranks disagree: nothing that the driver could mend."""
        self._send(mismatch=text[:1000])


@functools.lru_cache(maxsize=None)
def find_driver():
    """The Driver of this process; None where scalecomrun --elastic has not started it. A process that is
    forked has its parent's, and may ask it for its local_rank: a connection of its own would take the
    parent's place."""
    variables = [os.environ.get(f"SCALECOM_ELASTIC_{name}")
                 for name in ("ADDRESS", "SECRET", "WORKER")]
    return Driver(*variables[:2], int(variables[2])) if all(variables) else None


def join(connect):
    """Returns what connect() does, a code and its error, once this process has its place. Under a driver
    all meet first, and once more where one that came was lost before all were connected."""
    driver = find_driver()
    if driver is None:
        return connect()
    for meeting in range(MEETINGS_MAX):
        driver.meet()
        code, problem = connect()
        if code in (_library.OK, _library.INVALID_ARGUMENT, _library.SHUT_DOWN):
            break
        if meeting == 0:  # What keeps ranks from each other, as a firewall does, is known before the last.
            logging.getLogger("scalecom").warning("rank %s: the ranks meet again, since not all could connect: %s",
                                                  os.environ["RANK"], problem)
    return code, problem
