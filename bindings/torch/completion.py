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


class _Completion:
    """A thread that waits in the order of the submits. It sleeps in the library, without the
    interpreter's lock. On a CUDA device it has a stream of its own, which waits there."""

    def __init__(self):
        self._pending = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread = None
        self._streams = {}  # by device

    def future_of(self, finish, value, device):
        """A torch.futures.Future that gets `value`, which lies on `device`, when finish() has
        returned, or the error that it raised. Any thread may call it."""
        if threading.current_thread() is self._thread:
            return _future_now(finish, value, device)  # A callback: it would wait for itself.
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="scalecom-completion",
                                                daemon=True)
                self._thread.start()
        future, errors = new_future(device), []
        self._pending.put((finish, value, device, errors, future))
        return future.then(functools.partial(_value_or_error, errors))

    def _run(self):
        while True:
            finish, value, device, errors, future = self._pending.get()
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


future_of = _Completion().future_of
