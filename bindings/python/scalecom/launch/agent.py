"""What runs on each host of an elastic job: starts workers, and passes on what they and the driver
say to each other.

The driver's own host has it inside the driver. On another host it is a process behind a remote
shell, python -m scalecom.launch.agent: it reads what the driver says from its standard input, the
job first, and writes what it has to tell to its standard output, JSON, one message a line. It ends
what it has started when its input ends or is silent. Workers (scalecom/worker.py) talk to it over
an abstract Unix socket of their host, and prove the user and the job's secret.
"""

import asyncio
import hmac
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys

from scalecom import _library
from scalecom.launch import processes

HELLO_TIMEOUT_S = 10.0
WORKER_LINE_BYTES_MAX = 1 << 16
# A block of output with all of its bytes escaped, or an environment.
LINE_BYTES_MAX = 1 << 22
# In the time after which the other end counts as gone.
BEATS = 8
_NOT_STARTED = 127  # As a shell has it.


def reason_of(error):
    """An exception in words."""
    return str(error) if isinstance(error, (OSError, ValueError)) and str(error) else repr(error)


class Silence:
    """Of the other end. It is counted in beats and no clock is read: after a halt of this process
    what the other has said meanwhile counts."""

    def __init__(self, silence_s, beat=lambda: None):
        """beat(): says that this end lives; it is called again and again meanwhile."""
        self._silence_s = silence_s
        self._beat = beat
        self._missed = 0

    def note(self):
        """The other end has said something."""
        self._missed = 0

    async def wait(self):
        """Returns when it has lasted for too long."""
        while self._missed < BEATS:
            self._missed += 1
            self._beat()
            await asyncio.sleep(self._silence_s / BEATS)


class Agent:
    """Workers of this host. say(message) tells the driver; hear(message) is what it says.

    job: {"secret", "variables" of the environment, "command"}. targets: where output goes, as
    RankProcess.start() has it.
    """

    def __init__(self, job, say, targets=None):
        self._job = job
        self._say = say
        self._targets = targets
        self._address = f"scalecom-elastic-{secrets.token_hex(8)}"
        self._processes = {}  # By the worker's number, those that live.
        self._writers = {}  # Connections, by the worker's number.
        self._waits = set()
        self._server = None
        self._is_ending = False
        self._starting = asyncio.Lock()

    async def open(self):
        self._server = await asyncio.start_unix_server(self._serve, "\0" + self._address,
                                                       limit=WORKER_LINE_BYTES_MAX)

    async def hear(self, message):
        """{"start": number, "label", "prefix"}, {"to": number, "message"}, {"kill": number} or {},
        which says nothing."""
        if "start" in message:
            await self._start(message["start"], message["label"], message["prefix"])
        elif "to" in message:
            writer = self._writers.get(message["to"])
            if writer is not None and not writer.is_closing():
                writer.write(json.dumps(message["message"]).encode() + b"\n")
        elif message.get("kill") in self._processes:
            self._processes[message["kill"]].send(signal.SIGKILL)

    async def end(self, number=signal.SIGTERM):
        """Ends all workers and what they started, by a signal first; none is started any more."""
        self._is_ending = True
        async with self._starting:
            pass  # A worker that is being started is ended with the others.
        await processes.end_all(list(self._processes.values()), number)
        if self._server is not None:
            self._server.close()

    async def _start(self, number, label, prefix):
        environment = {**processes.base_environment([], os.environ), **self._job["variables"],
                       "SCALECOM_ELASTIC_ADDRESS": self._address,
                       "SCALECOM_ELASTIC_SECRET": self._job["secret"],
                       "SCALECOM_ELASTIC_WORKER": str(number)}
        async with self._starting:
            if self._is_ending:
                return
            try:
                process = await processes.RankProcess.start(self._job["command"], environment, label,
                                                            prefix, self._targets)
            except (ValueError, OSError, subprocess.SubprocessError) as error:
                self._say({"worker": number, "status": _NOT_STARTED, "reason": reason_of(error)})
                return
            self._processes[number] = process
        wait = asyncio.ensure_future(self._watch(number, process))
        self._waits.add(wait)
        wait.add_done_callback(self._waits.discard)

    async def _watch(self, number, process):
        status = await process.wait()
        if status != 0:
            process.send(signal.SIGKILL)  # What it had started.
        del self._processes[number]
        if not self._is_ending:  # Else it is no end of the worker's own.
            self._say({"worker": number, "status": status})

    async def _serve(self, reader, writer):
        number = None
        try:
            number = await self._greet(reader, writer)
            while number is not None:
                line = await reader.readline()
                if not line:
                    return
                self._say({"worker": number, "said": json.loads(line)})
        except (ValueError, KeyError, TypeError, asyncio.TimeoutError, OSError):
            pass  # Not a worker of ours, or one that is gone: its process's end tells more.
        finally:
            writer.close()
            if self._writers.get(number) is writer:
                del self._writers[number]

    async def _greet(self, reader, writer):
        """The number of the worker at the other end, which has the user and the secret of this job;
        else None."""
        credentials = writer.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, user, _ = struct.unpack("3i", credentials)
        if user != os.geteuid():
            return None
        hello = json.loads(await asyncio.wait_for(reader.readline(), HELLO_TIMEOUT_S))
        number = hello["worker"]
        if (not hmac.compare_digest(str(hello["secret"]), self._job["secret"])
                or number not in self._processes or number in self._writers):
            return None  # In the last case a process of the worker's own, as a subprocess is.
        self._writers[number] = writer
        return number


class _Output:
    """A stream of workers, as copy_lines() writes to one, that goes to the driver."""

    def __init__(self, say, name):
        self._say = say
        self._name = name
        self._text = ""
        self.buffer = self

    def write(self, block):
        self._text += block.decode("latin-1")  # Any bytes, one character each.

    def flush(self):
        if self._text:
            self._say({"output": self._text, "stream": self._name})
        self._text = ""


def _open_teller():
    """say(message), which waits as long as the driver does not read, and so do workers that write;
    what they or Python print by mistake is an error message from then on. It begins with the end of
    a line, which a login may have left open."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    told.write(b"\n")

    def say(message):
        try:
            told.write(json.dumps(message).encode() + b"\n")
            told.flush()
        except OSError:
            pass  # The driver is gone, which the input's end says.

    return say


async def _listen(reader, agent, silence):
    """Does what the driver says; returns the signal that ends the workers."""
    while line := await reader.readline():
        silence.note()
        message = json.loads(line)
        if "end" in message:
            return message["end"]
        await agent.hear(message)
    return signal.SIGTERM


async def _work(say, reader):
    """Does the driver's job; returns why that ends."""
    job = json.loads(await asyncio.wait_for(reader.readline(), HELLO_TIMEOUT_S))
    try:
        os.chdir(job["directory"])
    except OSError as error:
        return (f"it has no {job['directory']} ({error.strerror}); start the job in a folder that all hosts "
                "have")
    agent = Agent(job, say, [_Output(say, name) for name in ("stdout", "stderr")])
    silence = Silence(job["silence_s"], lambda: say({}))
    number = signal.SIGTERM
    with processes.caught_signals() as caught:
        try:
            await agent.open()
            # sshd: the client's address and port, and its own.
            *_, address, _ = os.environ.get("SSH_CONNECTION", "- -").rsplit(" ", 2)
            say({"ready": True, "address": address, "version": _library.version()})
            listening = asyncio.ensure_future(_listen(reader, agent, silence))
            waiting = asyncio.ensure_future(silence.wait())
            await asyncio.wait([listening, waiting, caught], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if caught.done():
                return f"its agent got {signal.Signals(caught.result()).name}"
            if not listening.done():
                return f"its agent heard nothing of the driver for {job['silence_s']:g} s"
            number = listening.result()
            return "the driver has ended it"
        finally:
            await agent.end(number)


async def _main(say):
    try:
        reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        reason = await _work(say, reader)
    except Exception as error:  # The driver tells of it, whatever it is.
        reason = f"its agent failed: {reason_of(error)}"
    say({"failed": reason})


if __name__ == "__main__":
    asyncio.run(_main(_open_teller()))
