"""The driver of an elastic job: has ranks started on hosts, and lets those that are there meet.

A *worker* is a process; a *round* is one meeting of workers, who then are ranks 0 to n - 1. Each
host has an agent (host_links.py, agent.py) that starts workers there and passes on what they say. A
worker asks to meet; the round is formed when all living members of the last one have asked, and all
that were started where there was none. Workers that are started later hold nobody up: the members
are told that hosts changed, and meet with them after their next commit. Everything runs on one
asyncio loop: what links and the discovery script tell is news, which _watch() takes in its order.
"""

import asyncio
import collections
import contextlib
import os
import secrets
import time
from typing import NamedTuple

from scalecom.launch import host_links, hosts, lines, processes

DISCOVERY_PERIOD_S = 1.0
# Of a meeting whose members are all there; SCALECOM_CONNECT_TIMEOUT counts where it is set.
CONNECT_TIMEOUT_S = "10"


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

    def __init__(self, number, slot, link):
        self.number = number
        self.slot = slot  # (host's name, number of the slot there)
        self.label = f"worker {number} ({slot[0]}, slot {slot[1]})"
        self.link = link
        self.rank = None  # In the current round; None: it is not a member.
        self.port = None  # Free on its host, when it asked.
        self.asked_at = None  # None: it has not asked to meet.
        self.has_state = False  # That training goes on from.
        self.is_dismissed = False

    def dismiss(self):
        self.is_dismissed, self.rank = True, None
        self.send(dismissed=True)

    def send(self, **message):
        self.link.say({"to": self.number, "message": message})

    def kill(self):
        self.link.say({"kill": self.number})


class Driver:
    """One elastic job; run() is its life."""

    def __init__(self, plan, limits, discovery, reach, environment, tell):
        self._plan = plan
        self._limits = limits
        self._discovery = discovery
        self._reach = reach
        self._tell = tell
        self._run = secrets.token_hex(8)
        self._hosts = host_links.Hosts(reach, self._make_job(environment), self._take, tell)
        self._workers = {}  # By number, those that live.
        self._failures = {}  # By slot.
        self._started = 0
        self._rounds = 0
        self._meeting_since = None  # When ranks began to wait for a meeting; None: they work.
        self._had_state = False  # Any worker, at any time.
        self._first_end = None  # A worker that ended well: the job is ending.
        self._mismatch = None  # A program's error that a worker has told of.
        self._news = collections.deque()  # (link, message)
        self._changed = asyncio.Event()

    def _make_job(self, environment):
        """What agents have to know."""
        base = processes.base_environment(self._plan.variables, environment)
        base.setdefault("SCALECOM_CONNECT_TIMEOUT", CONNECT_TIMEOUT_S)
        return {"secret": secrets.token_hex(16), "command": [str(one) for one in self._plan.command],
                "variables": lines.forwarded_environment(self._plan, base),
                "directory": os.getcwd(), "silence_s": self._reach.silence_s}

    def _take(self, link, message):
        self._news.append((link, message))
        self._changed.set()

    async def run(self):
        """Returns the job's exit code."""
        look_out = None
        with processes.caught_signals() as caught:
            try:
                await self._discovery.look()
                look_out = asyncio.ensure_future(self._look_out())
                self._advance()
                return await self._watch(caught)
            except JobFailed as failure:
                self._tell(str(failure))
                return failure.code
            finally:
                if look_out is not None:
                    look_out.cancel()
                await self._hosts.end()

    async def _watch(self, caught):
        while not self._is_over():
            changed = asyncio.ensure_future(self._changed.wait())
            done, _ = await asyncio.wait([changed, caught], timeout=self._time_left(),
                                         return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            self._changed.clear()
            if caught in done:
                await self._hosts.end(caught.result())
                return 128 + caught.result()
            while self._news:
                self._hear(*self._news.popleft())
            if self._mismatch is not None:  # All ranks have it, and raise it now.
                await self._wait_for_ends()
                raise JobFailed(self._mismatch)
            self._advance()
        return 0

    def _is_over(self):
        """Members that have work are waited for, and what never was one is not."""
        return self._first_end is not None and not (
            self._members() if self._rounds else self._workers)

    async def _wait_for_ends(self):
        """Until all workers have ended, for a while."""
        deadline = time.monotonic() + processes.GRACE_S
        while self._workers and (left := deadline - time.monotonic()) > 0:
            self._changed.clear()
            while self._news:
                _, message = self._news.popleft()
                if "status" in message:
                    self._workers.pop(message["worker"], None)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def _time_left(self):
        """Seconds to the next thing that happens by the clock; None where nothing does."""
        times = [self._hosts.next_return(), self._meeting_end()]
        if self._meeting_since is None:
            times += [worker.asked_at + self._limits.meeting_s for worker in self._newcomers()]
        times = [one for one in times if one is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _meeting_end(self):
        if self._meeting_since is None:
            return None
        return self._meeting_since + self._limits.meeting_s

    def _advance(self):
        """Does what the present state asks for."""
        if self._first_end is not None:
            self._refuse(f"{self._first_end} has ended well, so the job is over")
            return
        self._fill()
        members = self._members()
        if members and not any(worker.asked_at for worker in members):
            self._meeting_since = None  # Newcomers wait for the members' next commit.
            self._refuse_late_newcomers()
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
        elif time.monotonic() >= self._meeting_end():
            self._give_up_waiting()

    # Workers

    def _fill(self):
        """Starts workers while there are slots for them, where their hosts can be reached."""
        for slot in self._free_slots():
            link = self._hosts.find(slot[0])
            if not link.is_ready:
                continue  # It tells when it is.
            self._started += 1
            worker = Worker(self._started, slot, link)
            self._workers[worker.number] = worker
            link.say({"start": worker.number, "label": worker.label, "prefix":
                      f"[{worker.number}] " if self._plan.prefixes_output else None})
        self._hosts.leave({name for name, _ in self._discovery.slots()}
                          | {worker.slot[0] for worker in self._workers.values()})

    def _good_slots(self):
        return [slot for slot in self._discovery.slots()
                if self._failures.get(slot, 0) < self._limits.slot_failures]

    def _free_slots(self, with_aside=False):
        """with_aside: also of hosts that are put aside for now."""
        taken = {worker.slot for worker in self._workers.values()}
        free = [slot for slot in self._good_slots() if slot not in taken
                and (with_aside or not self._hosts.is_aside(slot[0]))]
        return free[:max(0, self._limits.ranks_max - self._count())]

    def _count(self):
        return sum(not worker.is_dismissed for worker in self._workers.values())

    def _can_get_enough(self):
        return (self._discovery.script is not None
                or self._count() + len(self._free_slots(True)) >= self._limits.ranks_min)

    def _note_end(self, worker, message):
        del self._workers[worker.number]
        status = message["status"]
        if worker.is_dismissed:
            return
        if status == 0:
            self._first_end = self._first_end or worker.label
            return
        text = f"{worker.label} " + (f"was not started: {message['reason']}" if "reason" in message
                                     else processes.describe(status))
        if self._is_loss_final(worker, text, processes.exit_code(status)):
            return
        self._failures[worker.slot] = failures = self._failures.get(worker.slot, 0) + 1
        is_good = failures < self._limits.slot_failures
        self._tell(text + ("; the others go on" if is_good else
                           f", the {failures}. in its slot, which is given up; the others go on"))

    def _is_loss_final(self, worker, text, code):
        """Whether the job is over and does without a worker that was lost; JobFailed where it does
        not."""
        if self._first_end is not None and self._rounds and worker.rank is None:
            self._tell(f"{text}; the job is over and does without it")
            return True
        if self._first_end is not None:
            raise JobFailed(f"{text}, after {self._first_end} had ended well", code)
        if not (self._members() if self._rounds else self._asked()):
            raise JobFailed(f"{text}; no rank is left that could go on", code)
        return False

    def _note_gone(self, link, reason):
        """A host is lost, and its workers are with it."""
        if not self._hosts.put_aside(link, reason):
            return
        lost = [worker for worker in self._workers.values() if worker.link is link]
        for worker in lost:
            del self._workers[worker.number]
        for worker in [one for one in lost if one.rank is not None or self._first_end is not None]:
            if not self._is_loss_final(worker, f"{worker.label} is lost with its host", 1):
                self._tell_members()

    # Meetings

    def _members(self):
        return [worker for worker in self._workers.values() if worker.rank is not None]

    def _asked(self):
        return [worker for worker in self._workers.values() if worker.asked_at is not None]

    def _newcomers(self):
        return [worker for worker in self._asked() if worker.rank is None and self._rounds]

    def _late(self):
        """Those without whom no round is formed."""
        awaited = self._members() or list(self._workers.values())
        return [worker for worker in awaited if worker.asked_at is None]

    def _is_state_lost(self):
        """Known once all members have asked: until then they may be about to tell of theirs."""
        return (self._had_state and not self._late()
                and not any(worker.has_state for worker in self._members()))

    def _staying(self):
        """Those of the next round, in the order of their ranks: those that have the state come first,
        then other members, both in their former order. Who has no slot any more stays out, unless
        the state would go with him: he leaves when he has given it to the others."""
        slots = self._good_slots()
        asked = sorted(self._asked(), key=lambda one: (not one.has_state, one.rank is None,
                                                       one.rank or 0, one.number))
        staying = [worker for worker in asked if worker.slot in slots][:self._limits.ranks_max]
        if staying and asked[0].has_state and not staying[0].has_state:
            return [asked[0], *staying]
        return staying

    def _can_meet(self):
        more_come = (not self._rounds and self._hosts.is_connecting()
                     and time.monotonic() < self._meeting_end())
        return (not self._late() and not more_come
                and len(self._staying()) >= self._limits.ranks_min)

    def _meet(self):
        """Tells all that have asked their ranks in the new round."""
        self._rounds += 1
        if self._limits.resets and self._rounds - 1 > self._limits.resets:
            raise JobFailed(f"the job was reset {self._limits.resets} times, all that --reset-limit "
                            "allows")
        staying = self._staying()
        self._meeting_since = None
        for worker in self._asked():
            worker.asked_at = None
            if worker not in staying:
                worker.dismiss()
        names = [worker.slot[0] for worker in staying]
        address = self._address_of(staying)
        for rank, worker in enumerate(staying):
            worker.rank = rank
            worker.send(round=self._rounds, variables=processes.rank_variables(
                rank, len(staying), staying[0].port, self._run, self._rounds, address=address,
                local_rank=worker.slot[1], local_size=names.count(worker.slot[0])))
        self._tell(f"round {self._rounds}: {len(staying)} rank{'' if len(staying) == 1 else 's'}")

    def _address_of(self, staying):
        """By which those of a round reach its rank 0."""
        first = staying[0].link
        others = [worker.link for worker in staying if worker.link is not first]
        if not others:
            return "127.0.0.1"
        return first.address or self._reach.own_address or others[0].own_address

    def _give_up_waiting(self):
        """The time for a meeting is over: it ends those who hold it up, or the job."""
        asked = len(self._asked())
        if asked < self._limits.ranks_min or not self._late():
            raise JobFailed(f"{asked} ranks came to meet within {self._limits.meeting_s:g} s, in "
                            f"{len(self._discovery.slots())} slots, and --min-np is "
                            f"{self._limits.ranks_min}; raise --elastic-timeout, or look at why "
                            "there are no more")
        for worker in self._late():
            self._tell(f"{worker.label} did not come to meet within {self._limits.meeting_s:g} s and "
                       "is ended")
            worker.kill()
        self._meeting_since = time.monotonic()

    def _refuse_late_newcomers(self):
        """The members work on and look for nobody: their program does not commit."""
        for worker in self._newcomers():
            if time.monotonic() >= worker.asked_at + self._limits.meeting_s:
                worker.asked_at = None
                worker.send(refused=f"for {self._limits.meeting_s:g} s no rank has come to its next "
                            "commit() or check_host_updates(), where newcomers are let in")

    def _refuse(self, reason):
        """No meeting any more: newcomers end well, members have work left that they cannot do."""
        self._meeting_since = None
        for worker in self._asked():
            worker.asked_at = None
            if worker.rank is None and self._rounds:
                worker.dismiss()
            else:
                worker.send(refused=reason)

    def _tell_members(self):
        """Hosts changed: members meet after their next commit."""
        for worker in self._members():
            worker.send(updated=True)

    def _tell_of_leavers(self):
        slots = self._discovery.slots()
        if any(worker.slot not in slots for worker in self._members()):
            self._tell_members()

    # What agents, workers and the discovery script say

    def _hear(self, link, message):
        worker = self._workers.get(message.get("worker"))
        if "gone" in message:
            self._note_gone(link, message["gone"])
        elif worker is not None and worker.link is link and "status" in message:
            self._note_end(worker, message)
        elif worker is not None and worker.link is link and isinstance(message["said"], dict):
            self._hear_worker(worker, message["said"])

    def _hear_worker(self, worker, message):
        if "mismatch" in message:
            self._mismatch = (f"{worker.label}: the ranks disagree, which is an error of the program "
                              f"and is not retried: {message['mismatch']}")
        elif message.get("has_state"):  # Which rank 0 has given it.
            self._had_state = True
            for one in [worker, *(one for one in self._members() if one.rank == 0)]:
                one.has_state = True
            self._tell_of_leavers()
        elif "meet" in message:
            worker.asked_at, worker.port = time.monotonic(), message["meet"]
            if worker.rank is None:
                self._tell_members()

    async def _look_out(self):
        """Asks the discovery script again and again; what fails in the same way each time is told
        once."""
        told = None
        while self._discovery.script is not None:
            await asyncio.sleep(DISCOVERY_PERIOD_S)
            before = self._discovery.hosts
            try:
                await self._discovery.look()
            except (ValueError, OSError) as error:
                if str(error) != told:
                    self._tell(f"the hosts stay as they are: {error}")
                told = str(error)
                continue
            told = None
            if self._discovery.hosts != before:
                self._tell(f"the hosts are {hosts.show(self._discovery.hosts)} now")
                self._tell_of_leavers()
                self._changed.set()


async def run_elastic(plan, limits, discovery, reach, environment, tell):
    """Runs an elastic job and returns its exit code: 0, or that of the failure that ended it.
    ValueError where the discovery script cannot be run."""
    return await Driver(plan, limits, discovery, reach, environment, tell).run()
