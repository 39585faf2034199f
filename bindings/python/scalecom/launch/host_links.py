"""Hosts as the driver of an elastic job has them: each has an agent (scalecom/launch/agent.py).

A link tells the driver by hear(link, message): what the agent says, or {"gone": reason} once.
"""

import asyncio
import collections
import contextlib
import json
import os
import shlex
import signal
import socket
import sys
import threading
import time
from typing import NamedTuple

from scalecom import _library
from scalecom.launch import agent, hosts, processes

# For a shell to get there, and Python to start.
READY_TIMEOUT_S = 30.0
_END_S = 5.0
# For what a shell had written to arrive: a connection that it leaves for later ones holds its pipe open.
_COMPLAINTS_S = 1.0
_LINES_SHOWN = 10


class LocalLink:
    """This host: the agent is in this process."""

    address = None

    def __init__(self, name, job, hear):
        self.name = name
        self.is_ready = False
        self._hear = hear
        self._said = asyncio.Queue()
        self._agent = agent.Agent(job, lambda message: hear(self, message))

    async def live(self):
        """Ends with {"gone": reason}, whatever it is that fails."""
        try:
            await self._agent.open()
            self.is_ready = True
            self._hear(self, {"ready": True})
            while True:
                await self._agent.hear(await self._said.get())
        except Exception as error:
            self._hear(self, {"gone": f"its agent failed: {agent.reason_of(error)}"})
        await self._agent.end()

    def say(self, message):
        self._said.put_nowait(message)

    async def end(self, number):
        await self._agent.end(number)


class _Beats:
    """Tells an agent that the driver lives, by a thread: the driver's loop may wait long, as for a
    terminal that was stopped and takes no output."""

    def __init__(self, writer, period_s):
        """writer: a subprocess's standard input, which may have ended."""
        self._writer = writer
        self._pipe = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        if not writer.is_closing():  # The loop may close it at any time.
            self._pipe = os.dup(writer.get_extra_info("pipe").fileno())
            threading.Thread(target=self._beat, args=(period_s,), daemon=True).start()

    def write(self, line):
        with self._lock:
            self._writer.write(line)

    def _beat(self, period_s):
        while not self._stopped.wait(period_s):
            with self._lock, contextlib.suppress(OSError):
                # Else it would be within a message that is written in parts.
                if not (self._stopped.is_set() or self._writer.transport.get_write_buffer_size()):
                    os.write(self._pipe, b"{}\n")

    def stop(self):
        self._stopped.set()
        with self._lock:
            if self._pipe is not None:
                os.close(self._pipe)
            self._pipe = None


class RemoteLink:
    """Another host, which a remote shell leads to.

    shell: words, before the host and a command line. The environment and the job's secrets go
    through the shell's standard input: a command line can be seen by all users.
    address: by which the other hosts reach it; own_address: of this host, that reaches it.
    """

    def __init__(self, name, shell, job, hear):
        self.name = name
        self.is_ready = False
        self.address = self.own_address = None
        self._shell = shell
        self._job = job
        self._hear = hear
        self._process = self._beats = self._listening = self._complaints = None
        self._is_ending = False
        self._silence = agent.Silence(job["silence_s"])

    async def live(self):
        """Ends with {"gone": reason}, whatever it is that fails."""
        try:
            reason = await self._live()
        except Exception as error:
            reason = agent.reason_of(error)
        if not self._is_ending:  # Else the shell may still have something to say.
            self._kill()
        self._hear(self, {"gone": reason})

    async def _live(self):
        with contextlib.ExitStack() as stack:
            reader, write_end = await processes.open_pipe(stack)
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._shell, self.name, self._command("scalecom.launch.agent"),
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=write_end,
                    start_new_session=True, limit=agent.LINE_BYTES_MAX)
            except OSError as error:
                return f"{self._shell[0]} cannot be run: {error.strerror}"
        self._complaints = asyncio.ensure_future(
            processes.copy_lines(reader, sys.stderr, f"{self.name}: "))
        self._beats = _Beats(self._process.stdin, self._job["silence_s"] / agent.BEATS)
        self.say(self._job)
        try:
            ready = await asyncio.wait_for(self._read_ready(), READY_TIMEOUT_S)
        except asyncio.TimeoutError:
            return f"its remote shell gave no sign of life within {READY_TIMEOUT_S:g} s; {self._trial()}"
        if ready is None:
            return f"{await self._end_of_shell()}; {self._trial()}"
        if "failed" in ready:
            return ready["failed"]
        if ready.get("version") != _library.version():
            return (f"scalecom there is {ready.get('version', 'another')}, and here {_library.version()}; "
                    "install the same on all hosts")
        await self._find_addresses(ready["address"])
        self.is_ready = True
        self._hear(self, ready)
        self._listening = asyncio.ensure_future(self._listen())
        silence = asyncio.ensure_future(self._silence.wait())
        try:
            await asyncio.wait([self._listening, silence], return_when=asyncio.FIRST_COMPLETED)
            if self._listening.done():
                return self._listening.result() or await self._end_of_shell()
            return f"it was silent for {self._job['silence_s']:g} s"
        finally:
            silence.cancel()
            self._listening.cancel()

    def _command(self, module, *arguments):
        path = os.environ.get("PYTHONPATH")
        # The shell begins in another folder.
        whole = path and os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))
        return shlex.join([*(["env", f"PYTHONPATH={whole}"] if whole else []), sys.executable, "-m",
                           module, *arguments])

    def _trial(self):
        """What somebody may type to see what is wrong."""
        command = self._command("scalecom.run", "--version")
        return f"this has to work: {shlex.join([*self._shell, self.name, command])}"

    async def _read_ready(self):
        """What the agent says first; None where the shell ends. What a login prints is shown where there
        is none: it may tell why."""
        others = collections.deque(maxlen=_LINES_SHOWN)
        try:
            while line := await self._process.stdout.readline():
                with contextlib.suppress(ValueError):
                    message = json.loads(line)
                    if isinstance(message, dict) and message.keys() & {"ready", "failed"}:
                        others.clear()
                        return message
                others.append(line.rstrip(b"\r\n"))
            return None
        finally:
            processes.write_lines(others, sys.stderr, f"{self.name}: ")

    async def _end_of_shell(self):
        try:
            status = await asyncio.wait_for(self._process.wait(), _END_S)
        except asyncio.TimeoutError:
            return "its remote shell closed its output"
        await asyncio.wait([self._complaints], timeout=_COMPLAINTS_S)
        return f"its remote shell {processes.describe(status)}"

    async def _find_addresses(self, told):
        """told: by which a shell's server was reached, where it has said so."""
        try:
            self.address = await self._address_of_name()
        except OSError as error:
            if told == "-":
                raise ValueError(f"its name has no address here: {error.strerror}") from error
            self.address = told
        if not hosts.is_reachable(self.address):
            raise ValueError(f"its address is {self.address}, which other hosts take for themselves; if "
                             "it is this host, call it localhost, else have its name lead to an "
                             "address that all hosts reach (/etc/hosts)")
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((self.address, 9))  # Sends nothing.
                self.own_address = probe.getsockname()[0]
        except OSError as error:
            raise ValueError(f"no network leads to its address {self.address}: {error.strerror}"
                             ) from error

    async def _address_of_name(self):
        """One that other hosts reach, if there is any, and IPv4 before IPv6."""
        found = await asyncio.get_running_loop().getaddrinfo(self.name, None, type=socket.SOCK_DGRAM)
        addresses = sorted((place[0] for *_, place in found), key=lambda address: ":" in address)
        return next(filter(hosts.is_reachable, addresses), addresses[0])

    async def _listen(self):
        """Returns why the agent has ended; None where only its output has."""
        while line := await self._process.stdout.readline():
            self._silence.note()
            message = json.loads(line)
            if "output" in message:
                target = sys.stderr if message["stream"] == "stderr" else sys.stdout
                with processes.reader_may_go(target):
                    target.buffer.write(message["output"].encode("latin-1"))
                    target.flush()
            elif "failed" in message:
                return message["failed"]
            elif message:
                self._hear(self, message)
        return None

    def say(self, message):
        if self._beats is not None and not self._process.stdin.is_closing():
            self._beats.write(json.dumps(message).encode() + b"\n")

    def _kill(self):
        if self._beats is not None:
            self._beats.stop()
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self, number):
        """Ends its workers, and the shell, and passes on what they had written."""
        if self._beats is None:
            return
        self._is_ending = True
        self.say({"end": number})
        self._beats.stop()
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), processes.GRACE_S + _END_S)
        except asyncio.TimeoutError:
            self._kill()
        if self._listening is not None:
            await asyncio.wait([self._listening], timeout=_END_S)
        await asyncio.wait([self._complaints], timeout=_COMPLAINTS_S)


class Reach(NamedTuple):
    """How other hosts are reached, and given up."""
    shell: list  # Words that lead to a host, before its name and a command line.
    own_address: str = None  # By which they reach this host; None: the interface that leads there.
    silence_s: float = 20.0  # After which a host counts as gone.
    pause_min_s: float = 10.0  # Of a host that failed; twice as long each time, up to the next.
    pause_max_s: float = 300.0


class Pause(NamedTuple):
    """Of a host that was put aside."""
    seconds: float
    until: float


class Hosts:
    """The links to hosts, and those that are put aside for a while."""

    def __init__(self, reach, job, hear, tell):
        self._reach = reach
        self._job = job
        self._hear = hear
        self._tell = tell
        self._links = {}  # By the host's name.
        self._lives = {}  # Tasks, by the same.
        self._since = {}  # When a link was made.
        self._pauses = {}
        self._endings = set()

    def is_aside(self, name):
        return name in self._pauses and time.monotonic() < self._pauses[name].until

    def next_return(self):
        """When the next host is tried again; None where none is aside."""
        now = time.monotonic()
        return min((pause.until for pause in self._pauses.values() if pause.until > now),
                   default=None)

    def find(self, name):
        """The link to a host, which is made where there is none."""
        if name not in self._links:
            link = (LocalLink(name, self._job, self._hear) if hosts.is_local(name) else
                    RemoteLink(name, self._reach.shell, self._job, self._hear))
            self._links[name] = link
            self._lives[name] = asyncio.ensure_future(link.live())
            self._since[name] = time.monotonic()
        return self._links[name]

    def is_connecting(self):
        return any(not link.is_ready for link in self._links.values())

    def put_aside(self, link, reason):
        """Returns whether the link was one of these still."""
        name = link.name
        if self._links.get(name) is not link:
            return False
        now = time.monotonic()
        del self._links[name], self._lives[name]
        has_worked = now - self._since.pop(name) > self._reach.pause_max_s
        last = self._pauses.get(name)
        seconds = (self._reach.pause_min_s if last is None or has_worked else
                   min(2 * last.seconds, self._reach.pause_max_s))
        self._pauses[name] = Pause(seconds, now + seconds)
        self._tell(f"{name} is put aside for {seconds:g} s: {reason}")
        return True

    def leave(self, names):
        """Ends the agents of hosts that are none of these."""
        for name in [one for one in self._links if one not in names]:
            ending = asyncio.ensure_future(self._end(*self._take_out(name), signal.SIGTERM))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)

    async def end(self, number=signal.SIGTERM):
        """Ends all agents, and the workers that they have, by a signal first."""
        await asyncio.gather(*self._endings, *(self._end(*self._take_out(name), number)
                                               for name in list(self._links)),
                             return_exceptions=True)

    def _take_out(self, name):
        """A link and its life, which are nobody else's from now on."""
        del self._since[name]
        return self._links.pop(name), self._lives.pop(name)

    async def _end(self, link, life, number):
        await link.end(number)
        life.cancel()
