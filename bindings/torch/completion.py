"""Futures of what has been submitted, for callers that cannot wait: torch's DistributedDataParallel
and the users of a process group."""

import contextlib
import functools
import queue
import threading

import torch


def _value_or_error(errors, future):
    """Who waits in C++ does not look at a future's own exception: it has to come from a callback."""
    if errors:
        raise errors[0]
    return future.value()


def _complete(finish, value, errors, future):
    try:
        finish()
    except Exception as problem:
        errors.append(problem)
    future.set_result(value)  # Who waits for it waits for the current stream.


def new_future(device):
    """Of a value on `device`: the stream of who waits for it waits there."""
    return torch.futures.Future(devices=[device] if device.type == "cuda" else None)


def _future_now(finish, value, device):
    """As future_of(), waiting here."""
    future, errors = new_future(device), []
    _complete(finish, value, errors, future)
    return future.then(functools.partial(_value_or_error, errors))


def future_in_thread(finish, value, device):
    """As Completion.future_of(), by a thread that waits for this one alone."""
    future, errors = new_future(device), []
    threading.Thread(target=_complete, args=(finish, value, errors, future),
                     name="scalecom-future", daemon=True).start()
    return future.then(functools.partial(_value_or_error, errors))


class Completion:
    """A thread that waits in the order of the submits. It sleeps in the library, without the
    interpreter's lock. On a CUDA device it has a stream of its own, which waits there."""

    def __init__(self):
        self._lock = threading.Lock()
        self._thread, self._pending = None, None
        self._streams = {}  # by device

    def future_of(self, finish, value, device):
        """A torch.futures.Future that gets `value`, which lies on `device`, when finish() has
        returned, or the error that it raised. Any thread may call it."""
        if threading.current_thread() is self._thread:
            return _future_now(finish, value, device)  # A callback: it would wait for itself.
        future, errors = new_future(device), []
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # As in a forked process.
                self._pending = queue.SimpleQueue()
                self._thread = threading.Thread(target=self._run, args=(self._pending,),
                                                name="scalecom-completion", daemon=True)
                self._thread.start()
            self._pending.put((finish, value, device, errors, future))
        return future.then(functools.partial(_value_or_error, errors))

    def close(self):
        """Ends the thread behind what it has been given. What comes later gets another one."""
        with self._lock:
            if self._thread is not None:
                self._pending.put(None)
                self._thread = None

    def _run(self, pending):
        while (item := pending.get()) is not None:
            finish, value, device, errors, future = item
            del item
            try:
                with self._stream_of(device):
                    _complete(finish, value, errors, future)
            except Exception as problem:  # Of the stream, or a value on other devices.
                errors.append(problem)
                future.set_result(None)
            del finish, value, errors, future

    def _stream_of(self, device):
        if device.type != "cuda":
            return contextlib.nullcontext()
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return torch.cuda.stream(self._streams[device])


future_of = Completion().future_of
