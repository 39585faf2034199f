"""Everything that waits: for programs to end, for their first words, for a signal to stop.

A signal interrupts nothing by itself. It is noted, and raised as Stopped where the program waits or
asks, so that what is being made or removed at that moment is made or removed as a whole.
"""

import os
import select
import signal
import subprocess
import time

IP_LIMIT_S = 30


class CommandError(Exception):
    """A program that the test network needs failed; the text is for the user."""


class Stopped(Exception):
    """The user, or who started this program, wants it to end."""

    def __init__(self, number):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP as a fact that can be asked and waited for. One a process."""

    def __init__(self):
        self.received = None
        self._readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writable)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number, _):
        self.received = self.received or number

    def check(self):
        if self.received:
            raise Stopped(self.received)

    def wait_readable(self, descriptors, deadline):
        """Those that can be read, none once the deadline (time.monotonic) is over."""
        poller = select.poll()
        for descriptor in (*descriptors, self._readable):
            poller.register(descriptor, select.POLLIN)
        while True:
            self.check()
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return []
            ready = [descriptor for descriptor, _ in poller.poll(left_s * 1000)]
            self.check()
            if ready:
                return ready

    def wait_ended(self, processes, deadline):
        """The first of the child processes (Popen) seen to have ended; None at the deadline."""
        watched = {os.pidfd_open(process.pid): process for process in processes}
        try:
            ready = self.wait_readable(watched, deadline)
        finally:
            for descriptor in watched:
                os.close(descriptor)
        return watched[ready[0]] if ready else None


def read_until(stop_signals, process, wanted, limit_s, what):
    """Waits until a child has printed `wanted`; its standard output is an unbuffered pipe."""
    deadline = time.monotonic() + limit_s
    seen = b""
    while wanted not in seen:
        if not stop_signals.wait_readable([process.stdout], deadline):
            raise CommandError(f"{what} is not ready after {limit_s} s")
        part = os.read(process.stdout.fileno(), 4096)
        if not part:
            raise CommandError(f"{what} ended before it was ready, with exit code "
                               f"{process.wait(limit_s)}: {seen.decode(errors='replace').strip()}")
        seen += part


def run_short(*command):
    """Output of a command that is over soon; CommandError where it fails.

    In a session of its own: a terminal's ctrl-C must not cut `ip` off in the middle.
    """
    words = [str(word) for word in command]
    try:
        result = subprocess.run(words, capture_output=True, text=True, timeout=IP_LIMIT_S,
                                stdin=subprocess.DEVNULL, start_new_session=True)
    except subprocess.TimeoutExpired:
        raise CommandError(f"{' '.join(words)} did not end within {IP_LIMIT_S} s") from None
    if result.returncode != 0:
        raise CommandError(f"{' '.join(words)} failed: {result.stderr.strip()}")
    return result.stdout


def end_processes(pids, patience_s):
    """Asks processes to end, then kills those that are still there; waits for both."""
    watched = {}
    for pid in pids:
        try:
            watched[os.pidfd_open(pid)] = pid
        except ProcessLookupError:
            pass
    try:
        for number, limit_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10)):
            for descriptor in list(watched):
                try:
                    signal.pidfd_send_signal(descriptor, number)
                except ProcessLookupError:
                    pass
            _wait_all(watched, time.monotonic() + limit_s)
    finally:
        for descriptor in watched:
            os.close(descriptor)


def _wait_all(watched, deadline):
    """Closes and forgets the descriptors of processes as they end, until the deadline."""
    poller = select.poll()
    for descriptor in watched:
        poller.register(descriptor, select.POLLIN)
    while watched and time.monotonic() < deadline:
        for descriptor, _ in poller.poll(max(0, deadline - time.monotonic()) * 1000):
            poller.unregister(descriptor)
            os.close(descriptor)
            del watched[descriptor]
