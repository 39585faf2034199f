"""What a collective of a process group of scalecom returns."""

import datetime
import threading

import torch.distributed as dist

from scalecom.torch import completion

_FOREVER = datetime.timedelta(0)


class Work(dist.Work):
    """What a collective returns: all of it is safe from any thread."""

    def __init__(self, future):
        super().__init__()
        self._future = future

    def wait(self, timeout=_FOREVER):
        """Sleeps until the result is there; on a CUDA device the current stream then waits for it.
        Raises RuntimeError with the cause where the collective failed, and when `timeout` (a
        timedelta) is over, after which the collective goes on."""
        if timeout > _FOREVER and not self._future.done():
            done = threading.Event()
            self._future.add_done_callback(lambda _: done.set())
            if not done.wait(timeout.total_seconds()):
                raise dist.DistBackendError(f"a collective of scalecom took more than {timeout}; it "
                                            "goes on: wait() again, or for longer")
        self._future.wait()
        return True

    def get_future(self):
        return self._future

    def is_completed(self):
        return self._future.done()

    def is_success(self):
        return self.is_completed() and self.exception() is None

    def exception(self):
        try:
            self._future.value()
        except Exception as problem:
            return problem
        return None

    def result(self):
        return self._future.value()


class WorkWithoutResult(Work):
    """A future has its waits on streams only for the devices of what it holds: this one's holds a tensor for
    that alone."""

    def result(self):
        super().result()
        return []


class DoneWork(Work):
    """Of a collective that is over. Nobody may ask for its future, which takes time to make."""

    def __init__(self, outputs, device):
        super().__init__(None)
        self._outputs, self._device = outputs, device

    def wait(self, timeout=_FOREVER):
        return True

    def get_future(self):
        if self._future is None:
            self._future = completion.new_future(self._device)
            self._future.set_result(self._outputs)
        return self._future

    def is_completed(self):
        return True

    def exception(self):
        return None

    def result(self):
        return self._outputs
