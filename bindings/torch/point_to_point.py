"""send and recv of torch.distributed's backend "scalecom".

Two ranks of a group that send each other something have a process set of their own. Either begins to
connect it with its first message, by the group's store and in a thread: no other rank takes part, and
nobody waits in isend(). A message is a broadcast in that set, named by its direction, its tag and how
many of these came before. So the two need not begin them in one order, and each waits for itself alone.
A CUDA tensor goes by way of the host's memory.
"""

import datetime
import threading
import time

import torch
import torch.distributed as dist

from scalecom import _library
from scalecom._library import lib
from scalecom.exceptions import HorovodInternalError
from scalecom.process_sets import leave_process_set, used
from scalecom.torch import completion, submit

_GROUPS_TIMEOUT = datetime.timedelta(0)  # What wait() takes for "as the group has it".
_CLOSE_LIMIT_S = 5.0


class Message(dist.Work):
    """What send() and recv() return. Any thread may wait for it."""

    def __init__(self, text, tensor, wire, is_sent, peer):
        """text: what it is. wire: what travels in `tensor`'s place, in the host's memory; what is
        received is copied from there unless it is the tensor's own. peer: the other's rank in the
        group."""
        super().__init__()
        self._text, self._tensor, self.wire = text, tensor, wire
        self._is_sent, self._peer = is_sent, peer
        self._stream = submit.current_stream(tensor)
        self._lock = threading.Lock()
        self._is_over, self._problem, self._future = False, None, None
        self.pair = None  # The two below are set before it is settled.
        self.ticket = None

    def fail(self, problem):
        """It has not been submitted, and will not be."""
        self._problem = self.explained(problem)
        self._is_over = True

    def explained(self, problem):
        """What is raised where `problem` has come of it."""
        code = getattr(problem, "code", None)
        if code == _library.RANK_LOST:  # In their set the ranks have other numbers.
            _, _, cause = str(problem).rpartition(" is lost: ")
            problem = f"rank {self.pair.rank_of(self._peer)} is lost: {cause}"
        return HorovodInternalError(f"{self._text}: {problem}", code=code)

    def wait(self, timeout=_GROUPS_TIMEOUT):
        """Sleeps until what is sent has been received, or what is received is in the tensor. Raises
        RuntimeError with the cause where it failed, and when `timeout` (the group's if none is
        given) is over, after which it goes on."""
        limit = timeout if timeout > _GROUPS_TIMEOUT else self.pair.timeout
        deadline = time.monotonic() + limit.total_seconds()
        if not self.pair.is_settled.wait(limit.total_seconds()):
            raise self._too_late(limit)
        if not self._is_over:
            try:
                self.ticket.wait(deadline)
            except TimeoutError:
                raise self._too_late(limit) from None
            except HorovodInternalError as problem:
                self._end(problem)
            else:
                self._end(None)
        if self._problem is not None:
            raise self._problem
        if self._stream is not None and not self._is_sent:  # It may be another's that has copied what came.
            torch.cuda.current_stream(self._tensor.device).wait_stream(self._stream)
        return True

    def _too_late(self, limit):
        other = "recv() from" if self._is_sent else "send() to"
        return dist.DistBackendError(
            f"{self._text}: rank {self.pair.rank_of(self._peer)} has not called {other} rank "
            f"{self.pair.own_rank} with this tag within {limit}. Two ranks that send to each other first "
            "need isend() or batch_isend_irecv(). It goes on: wait() again, or for longer")

    def _end(self, problem):
        with self._lock:
            if self._is_over:
                return
            if problem is not None:
                self._problem = self.explained(problem)
            elif not self._is_sent and self.wire.data_ptr() != self._tensor.data_ptr():
                with submit.on_stream(self._stream):
                    self._tensor.copy_(self.wire.view(self._tensor.shape))
            self._is_over = True

    def is_completed(self):
        if not self._is_over and self.pair.is_settled.is_set() and self.ticket.is_ready():
            try:
                self.wait()
            except HorovodInternalError:
                pass  # For who waits.
        return self._is_over

    def is_success(self):
        return self.is_completed() and self._problem is None

    def exception(self):
        return self._problem if self.is_completed() else None

    def result(self):
        self.wait()
        return [self._tensor]

    def get_future(self):
        """Completed by a thread of its own: it may be the last of many."""
        with self._lock:
            if self._future is None:
                self._future = completion.future_in_thread(self.wait, [self._tensor],
                                                           self._tensor.device)
            return self._future

    def _source_rank(self):
        return self._peer

    source_rank = _source_rank


class _Pair:
    """This rank and another one of the group. Any thread may call it."""

    def __init__(self, places, ranks, own_place, connect, timeout):
        """places, ranks: of the two, in the group and in the job. connect(places, closing) gives their
        process set."""
        self.timeout = timeout
        self.is_settled = threading.Event()  # Messages that were begun before it have a ticket.
        self._ranks = dict(zip(places, ranks))
        self._places, self._own_place = places, own_place
        self._connect = connect
        self._lock = threading.Lock()
        self._early = []
        self._counts = {}
        self._process_set, self._problem = None, None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scalecom-pair", daemon=True)
        self._thread.start()

    @property
    def own_rank(self):
        return self._ranks[self._own_place]

    def rank_of(self, place):
        return self._ranks[place]

    def begin(self, message, source, tag):
        """The message travels from the place `source` in the group. Raises RuntimeError where the two
        are not connected any more."""
        message.pair = self
        with self._lock:
            if self._problem is not None:
                raise message.explained(self._problem)
            number = self._counts.get((source, tag), 0)
            others = self._ranks[sum(self._places) - source]
            name = submit.FullName(f"torch.send.from.{self._ranks[source]}.to.{others}.tag.{tag}."
                                   f"{number}".encode())
            if self.is_settled.is_set():
                try:
                    self._submit(message, name, source)
                except HorovodInternalError as problem:
                    raise message.explained(problem) from None
            else:
                self._early.append((message, name, source))
            self._counts[source, tag] = number + 1

    def _submit(self, message, name, source):
        wire = message.wire
        with used(self._process_set):
            message.ticket = submit.submit(
                lib.scalecom_broadcast, (name, submit.view(wire), self._places.index(source)), wire)

    def _run(self):
        try:
            process_set = self._connect(self._places, self._closing)
        except Exception as problem:
            self._settle(None, problem)
        else:
            self._settle(process_set, None)

    def _settle(self, process_set, problem):
        with self._lock:
            self._process_set, self._problem = process_set, problem
            if self._closing.is_set() and process_set is not None:
                leave_process_set(process_set)  # close() may be over.
            for message, name, source in self._early:
                try:
                    if problem is not None:
                        raise problem
                    self._submit(message, name, source)
                except Exception as cause:
                    message.fail(cause)
            self._early = []
            self.is_settled.set()

    def close(self):
        """Ends it, and what is in flight in it, for both."""
        self._closing.set()
        self._thread.join(_CLOSE_LIMIT_S)
        with self._lock:
            if self._process_set is not None:
                leave_process_set(self._process_set)


class PointToPoint:
    """The messages of this rank in a group. Any thread may call it."""

    def __init__(self, ranks, place, connect, timeout):
        """ranks: the job's, in the group's order; place: this one's. connect(places, closing): the
        process set of the ranks at two places, made by both; it gives up when `closing`, a
        threading.Event, is set. timeout: how long a message waits for its counterpart."""
        self._ranks, self._place = ranks, place
        self._connect, self._timeout = connect, timeout
        self._lock = threading.Lock()
        self._pairs = {}

    def send(self, tensor, peer, tag):
        """Begins to send a tensor to the rank at the place `peer`. ValueError for what cannot be sent,
        RuntimeError where the two are not connected any more."""
        wire = submit.contiguous(tensor.cpu()).view(-1)
        return self._begin(tensor, wire, True, peer, tag)

    def receive(self, tensor, peer, tag):
        """Begins to receive a tensor; see send()."""
        is_direct = not tensor.is_cuda and tensor.is_contiguous() and not tensor.is_neg()
        wire = tensor.view(-1) if is_direct else torch.empty(tensor.numel(), dtype=tensor.dtype,
                                                             device="cpu")
        return self._begin(tensor, wire, False, peer, tag)

    def _begin(self, tensor, wire, is_sent, peer, tag):
        submit.view(wire)  # Raises for what cannot travel.
        if peer == self._place:
            raise ValueError(f"rank {self._ranks[peer]} sends to or receives from itself, which the "
                             "scalecom backend does not do; copy the tensor with copy_()")
        what = "send to" if is_sent else "recv from"
        message = Message(f"{what} rank {self._ranks[peer]} with tag {tag}", tensor, wire, is_sent, peer)
        self._pair(peer).begin(message, self._place if is_sent else peer, tag)
        return message

    def _pair(self, peer):
        with self._lock:
            if peer not in self._pairs:
                places = sorted((self._place, peer))
                self._pairs[peer] = _Pair(places, [self._ranks[place] for place in places],
                                          self._place, self._connect, self._timeout)
            return self._pairs[peer]

    def close(self):
        """Ends all that is in flight, for the others too."""
        with self._lock:
            pairs, self._pairs = self._pairs, {}
        for pair in pairs.values():
            pair.close()
