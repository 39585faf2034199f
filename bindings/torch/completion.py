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
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="scalecom-completion",
                                                daemon=True)
                self._thread.start()
        future = torch.futures.Future(devices=[device] if device.type == "cuda" else None)
        errors = []
        self._pending.put((finish, value, device, errors, future))
        return future.then(functools.partial(_value_or_error, errors))

    def _run(self):
        while True:
            finish, value, device, errors, future = self._pending.get()
            with self._stream_of(device):
                try:
                    finish()
                except Exception as problem:
                    errors.append(problem)
                future.set_result(value)  # Who waits for it waits for the stream.
            del finish, value, errors, future

    def _stream_of(self, device):
        if device.type != "cuda":
            return contextlib.nullcontext()
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return torch.cuda.stream(self._streams[device])


future_of = _Completion().future_of
