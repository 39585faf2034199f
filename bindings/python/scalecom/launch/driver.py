"""The driver of an elastic job: starts ranks of this host, and lets those that are there meet.

A *worker* is a process; a *round* is one meeting of workers, who then are ranks 0 to n - 1. The
driver serves one connection a worker (scalecom/elastic.py is its other end). A worker asks to meet;
the round is formed when all living members of the last one have asked, and all that were started
where there was none. Workers that are started later hold nobody up: the members are told that hosts
changed, and meet with them after their next commit. Everything runs on one asyncio loop.
"""

import asyncio
import contextlib
import hmac
import json
import os
import secrets
import signal
import socket
import struct
import time
from typing import NamedTuple

from scalecom.launch import hosts, processes

HELLO_TIMEOUT_S = 10.0
DISCOVERY_PERIOD_S = 1.0
DISCOVERY_TIMEOUT_S = 10.0
DISCOVERY_END_S = 1.0  # After SIGKILL.
# Of a meeting whose members are all there; SCALECOM_CONNECT_TIMEOUT counts where it is set.
CONNECT_TIMEOUT_S = "10"
LINE_BYTES_MAX = 1 << 16


class Limits(NamedTuple):
    ranks_min: int
    ranks_max: int
    meeting_s: float = 600.0  # For enough workers to come together.
    resets: int = 0  # Rounds after the first one; 0: no limit.
    slot_failures: int = 3  # Workers that may fail in a slot before it is given up.


class JobFailed(Exception):
    """The job cannot go on; holds what to say and the exit code."""

    def __init__(self, text, code=1):
        super().__init__(text)
        self.code = code


class Worker:
    """A process in a slot, from its start to its end."""

    def __init__(self, number, slot, process):
        self.number = number
        self.slot = slot
        self.process = process
        self.writer = None  # Its connection.
        self.rank = None  # In the current round; None: it is not a member.
        self.has_asked = False
        self.has_state = False  # That training goes on from.
        self.is_dismissed = False

    def dismiss(self):
        self.is_dismissed, self.rank = True, None
        self.send(dismissed=True)

    def send(self, **message):
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(json.dumps(message).encode() + b"\n")


class Discovery:
    """How many slots this host has: a number, or what a script says each time it is asked."""

    def __init__(self, slots, script=None, default_slots=1):
        self.slots = slots
        self.script = script
        self._default_slots = default_slots

    async def look(self):
        """Asks the script; ValueError where it does not work or names another host."""
        if self.script is None:
            return
        try:
            process = await asyncio.create_subprocess_exec(
                self.script, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                start_new_session=True)
        except OSError as error:
            raise ValueError(f"{self.script} cannot be run: {error.strerror}") from error
        try:
            output, _ = await asyncio.wait_for(process.communicate(), DISCOVERY_TIMEOUT_S)
        except asyncio.TimeoutError as error:
            raise ValueError(f"{self.script} gave no hosts within {DISCOVERY_TIMEOUT_S:g} s"
                             ) from error
        finally:
            with contextlib.suppress(ProcessLookupError):  # And what it started.
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), DISCOVERY_END_S)
        if process.returncode != 0:
            raise ValueError(f"{self.script} {processes.describe(process.returncode)}")
        found = hosts.parse_lines(output.decode(errors="replace"), self.script, self._default_slots)
        check_local(found)
        self.slots = sum(host.slots for host in found)


def check_local(found):
    """ValueError unless all hosts are this one."""
    strangers = [host.name for host in found if not hosts.is_local(host.name)]
    if strangers:
        raise ValueError(f"the hosts have {', '.join(strangers)}; an elastic job has ranks on this "
                         "host only, in this version: give localhost:slots")


class Driver:
    """One elastic job; run() is its life."""

    def __init__(self, plan, limits, discovery, environment, tell):
        self._plan = plan
        self._limits = limits
        self._discovery = discovery
        self._tell = tell
        self._environment = processes.base_environment(plan.variables, environment)
        self._environment.setdefault("SCALECOM_CONNECT_TIMEOUT", CONNECT_TIMEOUT_S)
        self._secret = secrets.token_hex(16)
        self._run = secrets.token_hex(8)
        self._address = f"scalecom-elastic-{secrets.token_hex(8)}"
        self._workers = {}  # By number, those that live.
        self._waits = {}  # Future of a process's end -> its worker.
        self._failures = {}  # By slot.
        self._started = 0
        self._rounds = 0
        self._meeting_since = None  # When ranks began to wait for a meeting; None: they work.
        self._had_state = False  # Any worker, at any time.
        self._first_end = None  # A worker that ended well: the job is ending.
        self._mismatch = None  # A program's error that a worker has told of.
        self._changed = asyncio.Event()

    async def run(self):
        """Returns the job's exit code."""
        server = await asyncio.start_unix_server(self._serve, "\0" + self._address,
                                                 limit=LINE_BYTES_MAX)
        look_out = None
        with processes.caught_signals() as caught:
            try:
                await self._discovery.look()
                look_out = asyncio.ensure_future(self._look_out())
                await self._advance()
                return await self._watch(caught)
            except JobFailed as failure:
                self._tell(str(failure))
                return failure.code
            finally:
                if look_out is not None:
                    look_out.cancel()
                await processes.end_all([one.process for one in self._workers.values()])
                server.close()

    async def _watch(self, caught):
        while self._workers or self._first_end is None:
            changed = asyncio.ensure_future(self._changed.wait())
            done, _ = await asyncio.wait([*self._waits, changed, caught],
                                         timeout=self._time_left(),
                                         return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            self._changed.clear()
            if caught in done:
                await processes.end_all([one.process for one in self._workers.values()],
                                        caught.result())
                return 128 + caught.result()
            if self._mismatch is not None:  # All ranks have it, and raise it now.
                if self._waits:
                    await asyncio.wait(self._waits, timeout=processes.GRACE_S)
                raise JobFailed(self._mismatch)
            for wait in [one for one in done if one in self._waits]:
                self._note_end(self._waits.pop(wait), wait.result())
            await self._advance()
        return 0

    def _time_left(self):
        if self._meeting_since is None:
            return None
        return max(0.0, self._meeting_since + self._limits.meeting_s - time.monotonic())

    async def _advance(self):
        """Does what the present state asks for."""
        if self._first_end is not None:
            self._refuse(f"{self._first_end} has ended well, so the job is over")
            return
        await self._fill()
        members = self._members()
        if members and not any(worker.has_asked for worker in members):
            self._meeting_since = None  # Newcomers wait for the members' next commit.
            return
        if self._meeting_since is None:
            self._meeting_since = time.monotonic()
        if self._is_state_lost():
            raise JobFailed("all ranks that had the state are lost, and the others would begin anew; "
                            "start the job again from a checkpoint")
        if self._can_meet():
            self._meet()
        elif not self._can_get_enough():
            raise JobFailed(f"{self._count()} ranks are left, --min-np is "
                            f"{self._limits.ranks_min}, and there is no slot to start others in")
        elif self._time_left() == 0.0:
            self._give_up_waiting()

    # Workers

    async def _fill(self):
        """Starts workers while there are slots for them."""
        for slot in self._free_slots():
            self._started += 1
            variables = {"SCALECOM_ELASTIC_ADDRESS": self._address,
                         "SCALECOM_ELASTIC_SECRET": self._secret,
                         "SCALECOM_ELASTIC_WORKER": str(self._started)}
            process = await processes.RankProcess.start(
                self._plan.command, {**self._environment, **variables},
                f"worker {self._started} (slot {slot})",
                f"[{self._started}] " if self._plan.prefixes_output else None)
            worker = Worker(self._started, slot, process)
            self._workers[worker.number] = worker
            self._waits[asyncio.ensure_future(process.wait())] = worker

    def _good_slots(self):
        return [slot for slot in range(self._discovery.slots)
                if self._failures.get(slot, 0) < self._limits.slot_failures]

    def _free_slots(self):
        taken = {worker.slot for worker in self._workers.values()}
        free = [slot for slot in self._good_slots() if slot not in taken]
        return free[:max(0, min(self._limits.ranks_max, self._discovery.slots) - self._count())]

    def _count(self):
        return sum(not worker.is_dismissed for worker in self._workers.values())

    def _can_get_enough(self):
        return (self._discovery.script is not None
                or self._count() + len(self._free_slots()) >= self._limits.ranks_min)

    def _note_end(self, worker, status):
        del self._workers[worker.number]
        if worker.is_dismissed:
            return
        label = worker.process.label
        if status == 0:
            self._first_end = self._first_end or label
            return
        text = f"{label} {processes.describe(status)}"
        code = processes.exit_code(status)
        worker.process.send(signal.SIGKILL)  # What it had started.
        if self._first_end is not None and self._rounds and worker.rank is None:
            self._tell(f"{text}; the job is over and does without it")
            return
        if self._first_end is not None:
            raise JobFailed(f"{text}, after {self._first_end} had ended well", code)
        if not (self._members() if self._rounds else self._asked()):
            raise JobFailed(f"{text}; no rank is left that could go on", code)
        self._failures[worker.slot] = failures = self._failures.get(worker.slot, 0) + 1
        is_good = failures < self._limits.slot_failures
        self._tell(text + ("; the others go on" if is_good else
                           f", the {failures}. in its slot, which is given up; the others go on"))

    # Meetings

    def _members(self):
        return [worker for worker in self._workers.values() if worker.rank is not None]

    def _asked(self):
        return [worker for worker in self._workers.values() if worker.has_asked]

    def _late(self):
        """Those without whom no round is formed."""
        awaited = self._members() or list(self._workers.values())
        return [worker for worker in awaited if not worker.has_asked]

    def _is_state_lost(self):
        """Known once all members have asked: until then they may be about to tell of theirs."""
        return (self._had_state and not self._late()
                and not any(worker.has_state for worker in self._members()))

    def _can_meet(self):
        room = min(len(self._asked()), self._discovery.slots)
        return room >= self._limits.ranks_min and not self._late()

    def _meet(self):
        """Tells all that have asked their ranks in the new round: those that have the state come
        first, then other members, both in their former order."""
        self._rounds += 1
        if self._limits.resets and self._rounds - 1 > self._limits.resets:
            raise JobFailed(f"the job was reset {self._limits.resets} times, all that --reset-limit "
                            "allows")
        asked = sorted(self._asked(), key=lambda one: (not one.has_state, one.rank is None,
                                                       one.rank or 0, one.number))
        size = min(self._limits.ranks_max, len(asked), self._discovery.slots)
        port = processes.free_port()
        self._meeting_since = None
        for rank, worker in enumerate(asked):
            worker.has_asked = False
            if rank >= size:
                worker.dismiss()
                continue
            worker.rank = rank
            worker.send(round=self._rounds,
                        variables=processes.rank_variables(rank, size, port, self._run,
                                                           self._rounds))
        self._tell(f"round {self._rounds}: {size} ranks")

    def _give_up_waiting(self):
        """The time for a meeting is over: it ends those who hold it up, or the job."""
        asked = len(self._asked())
        if asked < self._limits.ranks_min or not self._late():
            raise JobFailed(f"{asked} ranks came to meet within {self._limits.meeting_s:g} s, in "
                            f"{self._discovery.slots} slots, and --min-np is "
                            f"{self._limits.ranks_min}; raise --elastic-timeout, or look at why "
                            "there are no more")
        for worker in self._late():
            self._tell(f"{worker.process.label} did not come to meet within "
                       f"{self._limits.meeting_s:g} s and is ended")
            worker.process.send(signal.SIGKILL)
        self._meeting_since = time.monotonic()

    def _refuse(self, reason):
        """No meeting any more: newcomers end well, members have work left that they cannot do."""
        self._meeting_since = None
        for worker in self._asked():
            worker.has_asked = False
            if worker.rank is None and self._rounds:
                worker.dismiss()
            else:
                worker.send(refused=reason)

    def _tell_members(self):
        """Hosts changed: members meet after their next commit."""
        for worker in self._members():
            worker.send(updated=True)

    # What workers and the discovery script say

    async def _serve(self, reader, writer):
        worker = None
        try:
            worker = await self._greet(reader, writer)
            while worker is not None:
                line = await reader.readline()
                if not line:
                    return
                self._hear(worker, json.loads(line))
        except (ValueError, KeyError, TypeError, asyncio.TimeoutError, OSError):
            pass  # Not a worker of ours, or one that is gone: its process's end tells more.
        finally:
            writer.close()

    async def _greet(self, reader, writer):
        """The worker at the other end, which has the user and the secret of this job; else None."""
        credentials = writer.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, user, _ = struct.unpack("3i", credentials)
        if user != os.geteuid():
            return None
        hello = json.loads(await asyncio.wait_for(reader.readline(), HELLO_TIMEOUT_S))
        worker = self._workers.get(hello["worker"])
        if not hmac.compare_digest(str(hello["secret"]), self._secret) or worker is None:
            return None
        worker.writer = writer
        return worker

    def _hear(self, worker, message):
        if "mismatch" in message:
            self._mismatch = (f"{worker.process.label}: the ranks disagree, which is an error of "
                              f"the program and is not retried: {message['mismatch']}")
        elif message.get("has_state"):  # Which rank 0 has given it.
            self._had_state = True
            for one in [worker, *(one for one in self._members() if one.rank == 0)]:
                one.has_state = True
        elif message.get("meet"):
            worker.has_asked = True
            if worker.rank is None:
                self._tell_members()
        self._changed.set()

    async def _look_out(self):
        """Asks the discovery script again and again."""
        while self._discovery.script is not None:
            await asyncio.sleep(DISCOVERY_PERIOD_S)
            before = self._discovery.slots
            try:
                await self._discovery.look()
            except (ValueError, OSError) as error:
                self._tell(f"the hosts stay as they are: {error}")
                continue
            if self._discovery.slots != before:
                self._tell(f"this host has {self._discovery.slots} slots now")
                if self._discovery.slots < len(self._members()):
                    self._tell_members()
                self._changed.set()


async def run_elastic(plan, limits, discovery, environment, tell):
    """Runs an elastic job on this host and returns its exit code: 0, or that of the failure that
    ended it. ValueError where the command or the discovery script cannot be run."""
    return await Driver(plan, limits, discovery, environment, tell).run()
