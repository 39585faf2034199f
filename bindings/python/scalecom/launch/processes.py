"""Ranks as processes of this host, watched by one asyncio loop."""

import asyncio
import contextlib
import ctypes
import errno
import os
import re
import secrets
import signal
import sys
import time

from scalecom.launch import hosts, lines

# From SIGTERM to SIGKILL.
GRACE_S = 10.0
# How often it is looked whether what a rank had started is gone: nobody tells of that.
_LOOK_S = 0.02
_READ_BYTES = 1 << 16
# Of what a rank writes without an end of line.
_LINE_BYTES_MAX = 1 << 18
_LINE_END = re.compile(rb"\r*\n|\r+")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Of other launchers: their ranks are not these.
_FOREIGN_PREFIXES = ("OMPI_", "PMI_", "PMIX_", "TORCHELASTIC_", "SCALECOM_ELASTIC_")


def rank_variables(rank, size, port, run, attempt, *, local_rank=None, local_size=None,
                   address="127.0.0.1"):
    """How torchrun would tell a process its place, on this host alone where no more is said; run and
    attempt tell one meeting of ranks from all others. address: of rank 0, with the port."""
    return {"RANK": str(rank), "WORLD_SIZE": str(size),
            "LOCAL_RANK": str(rank if local_rank is None else local_rank),
            "LOCAL_WORLD_SIZE": str(size if local_size is None else local_size),
            "MASTER_ADDR": address, "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": run, "TORCHELASTIC_RESTART_COUNT": str(attempt)}


def base_environment(variables, environment):
    """A rank's environment without its place: that of this process, and what -x gives."""
    places = {"SCALECOM_RENDEZVOUS", "HOROVOD_RENDEZVOUS", *rank_variables(0, 1, 0, "", 0), *lines.HOROVOD_PLACES}
    kept = {name: value for name, value in environment.items()
            if not name.startswith(_FOREIGN_PREFIXES) and name not in places}
    kept.setdefault("SCALECOM_RENDEZVOUS_KEY", secrets.token_hex(16))
    kept.update(text.split("=", 1) for text in variables if "=" in text)
    return kept


def exit_code(status):
    """A process's status as a shell has it: 128 + n for the signal n."""
    return status if status >= 0 else 128 - status


def describe(status):
    """A process's status in words."""
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _make_end_with_parent():
    """A function for a started process, by which it is killed when this one ends, however that
    happens."""
    set_option = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def end_with_parent():
        set_option(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return end_with_parent


class RankProcess:
    """A started rank, leader of a process group of its own, so that a signal reaches what it
    started as well."""

    def __init__(self, process, label, copies):
        self.label = label
        self.pid = process.pid
        self._process = process
        self._copies = copies

    @classmethod
    async def start(cls, command, environment, label, prefix=None, targets=None):
        """prefix: what stands before each line of its output; None: nothing, and it writes to ours
        itself unless targets has other streams for it. It is killed when this process ends."""
        if targets is None:
            targets = [] if prefix is None else [sys.stdout, sys.stderr]
        with contextlib.ExitStack() as stack:
            pipes = [await open_pipe(stack) for _ in targets]
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, env=environment, stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True, preexec_fn=_make_end_with_parent(),
                    **dict(zip(("stdout", "stderr"), (write_end for _, write_end in pipes))))
            except OSError as error:
                raise ValueError(f"{command[0]} cannot be started: {error.strerror}") from error
        copies = [asyncio.ensure_future(copy_lines(reader, target, prefix or ""))
                  for (reader, _), target in zip(pipes, targets)]
        return cls(process, label, copies)

    async def wait(self):
        """Its status, -n for the signal n, when it has ended and its output is written."""
        status = await self._process.wait()
        if self._copies:  # What it started may hold the pipes open for longer.
            await asyncio.wait(self._copies, timeout=1.0)
        return status

    def has_ended_well(self):
        return self._process.returncode == 0

    def send(self, number):
        """Sends a signal to it and what it started; returns whether any of these is left. 0 asks
        only."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # The number may be another's by now.
            return False
        return True


async def open_pipe(stack):
    """(reader, descriptor to write to, which the stack closes). asyncio's own pipes hold up the news
    of a process's end until what it started has closed them too."""
    read_end, write_end = os.pipe()
    stack.callback(os.close, write_end)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb"))
    return reader, write_end


async def copy_lines(source, target, prefix):
    """Whole lines, so that those of several ranks do not mix; what a carriage return ends, as of a
    progress bar, is a line too, and so is what has grown to _LINE_BYTES_MAX."""
    rest = b""
    while True:
        block = await source.read(_READ_BYTES)
        *lines, rest = _LINE_END.split(rest + block)
        if rest and (not block or len(rest) >= _LINE_BYTES_MAX):
            lines, rest = [*lines, rest], b""
        write_lines(lines, target, prefix)
        if not block:
            return


def write_lines(lines, target, prefix):
    with reader_may_go(target):
        for line in lines:
            target.buffer.write(prefix.encode() + line + b"\n")
        target.flush()


@contextlib.contextmanager
def reader_may_go(stream):
    """Where a stream cannot be written to all that is written to it is thrown away from then on;
    where that is not because a pipe's reader has ended, it is told."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EPIPE and stream is not sys.stderr:
            print(f"scalecomrun: the output cannot be written, and what follows is thrown away: {error}",
                  file=sys.stderr, flush=True)
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


async def end_all(processes, number=signal.SIGTERM):
    """Ends processes and what they started: by a signal, and what is left GRACE_S later by SIGKILL.
    What a process that has ended well left behind stays."""
    processes = [process for process in processes if not process.has_ended_well()]
    left = [process for process in processes if process.send(number)]
    deadline = time.monotonic() + GRACE_S
    while left and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_S)
        left = [process for process in left if process.send(0)]
    for process in left:
        process.send(signal.SIGKILL)
    await asyncio.gather(*(process.wait() for process in processes))


@contextlib.contextmanager
def caught_signals():
    """Gives a future of the first SIGINT, SIGTERM or SIGHUP that this process gets. Those that it
    ignores, as nohup has it, stay ignored."""
    loop = asyncio.get_running_loop()
    caught = loop.create_future()
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
               if signal.getsignal(number) is not signal.SIG_IGN]

    def catch(number):
        if not caught.done():
            caught.set_result(number)

    for number in numbers:
        loop.add_signal_handler(number, catch, number)
    try:
        yield caught
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def run_ranks(plan, environment, tell):
    """Starts a plan's ranks here and returns the exit code: 0, that of the first rank that failed,
    which ends the others, or 128 + n when a signal n has ended all. tell(text): for people."""
    base = base_environment(plan.variables, environment)
    run, port = secrets.token_hex(8), hosts.free_port()
    ranks = []
    with caught_signals() as caught:
        try:
            for rank in range(plan.ranks):
                place = rank_variables(rank, plan.ranks, port, run, 0)
                ranks.append(await RankProcess.start(
                    plan.command, {**base, **place}, f"rank {rank}",
                    f"[{rank}] " if plan.prefixes_output else None))
                if caught.done():  # Many ranks take long to start.
                    break
            return await _watch(ranks, caught, tell)
        finally:
            await end_all(ranks)


async def _watch(ranks, caught, tell):
    waits = {asyncio.ensure_future(rank.wait()): rank for rank in ranks}
    while waits:
        done, _ = await asyncio.wait([*waits, caught], return_when=asyncio.FIRST_COMPLETED)
        if caught in done:
            await end_all(ranks, caught.result())
            return 128 + caught.result()
        for wait in done:
            rank = waits.pop(wait)
            if wait.result() != 0:
                tell(f"{rank.label} {describe(wait.result())}; the others are ended")
                await end_all(ranks)
                return exit_code(wait.result())
    return 0
