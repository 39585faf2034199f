"""Programs in which a rank dies, leaves, lags or is set wrongly; the test files say what is wanted.

Waiting "for the others" below goes through scalecom's own barrier, or a file in the job's folder where
that would be in the way, so no program guesses times.
"""

import os
import pathlib
import signal
import sys
import threading
import time

import torch

import scalecom.torch as hvd
from scalecom import elastic


def _error_of(action):
    """(message, seconds until it came) of the HorovodInternalError that the action raises."""
    begin = time.monotonic()
    try:
        action()
    except hvd.HorovodInternalError as error:
        return str(error), time.monotonic() - begin
    raise AssertionError("no error came")


def _wait_for(path):
    while not path.exists():
        time.sleep(0.01)  # A file tells nobody that it is there.


def lose_a_rank(victim):
    """The victim kills itself while the others wait for it; then they try once more."""
    hvd.init()
    waiting = None
    if hvd.rank() != victim:
        waiting = [hvd.allreduce_async(torch.ones(1000), name=f"lost.{number}")
                   for number in range(3)]
    hvd.barrier()
    if hvd.rank() == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    errors = [_error_of(lambda handle=handle: hvd.synchronize(handle)) for handle in waiting]
    after, _ = _error_of(lambda: hvd.allreduce(torch.ones(1), name="after"))
    begin = time.monotonic()
    hvd.shutdown()
    return {"messages": [message for message, _ in errors],
            "seconds": sum(seconds for _, seconds in errors), "after": after,
            "shutdown_seconds": time.monotonic() - begin}


def lose_a_rank_while_others_have_joined(victim):
    """Rank 2 goes on alone."""
    hvd.init()

    def run(steps):
        for _ in range(steps):
            hvd.allreduce(torch.ones(1000), name="alone")

    def end():
        os.kill(os.getpid(), signal.SIGKILL)

    if hvd.rank() == victim == 2:
        run(20)
        end()
    if hvd.rank() == victim:
        threading.Timer(0.05, end).start()
    message, _ = _error_of(hvd.join if hvd.rank() < 2 else lambda: run(1_000_000))
    begin = time.monotonic()
    hvd.shutdown()
    return {"messages": [message], "shutdown_seconds": time.monotonic() - begin}


def leave_with_tensors_in_flight():
    """Rank 0 leaves while tensors of every rank wait for somebody."""
    hvd.init()
    handles = [hvd.allreduce_async(torch.ones(10), name=f"of {hvd.rank()}.{number}")
               for number in range(3)]
    hvd.barrier()
    if hvd.rank() == 0:
        hvd.shutdown()
    errors = [_error_of(lambda handle=handle: hvd.synchronize(handle)) for handle in handles]
    hvd.shutdown()
    return {"messages": [message for message, _ in errors],
            "seconds": sum(seconds for _, seconds in errors)}


def lag_for_ever():
    """The last rank never submits "wanted"; every rank submits "other" later."""
    hvd.init()
    is_late = hvd.rank() == hvd.size() - 1
    submitted_at = time.monotonic()
    if is_late:
        handle = hvd.allreduce_async(torch.ones(1), name="only the last")
    else:
        handle = hvd.allreduce_async(torch.ones(1), name="wanted")
    message, _ = _error_of(lambda: hvd.synchronize(handle))
    return {"message": message, "submitted_at": submitted_at, "failed_at": time.monotonic()}


def wait_for_a_stopped_rank_0():
    """Rank 0 stops, as Ctrl-Z would do it, with nothing under way: what the others are told."""
    hvd.init()
    hvd.barrier()
    if hvd.rank() == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    message, _ = _error_of(lambda: hvd.allreduce(torch.ones(1), name="wanted"))
    return message


def lag_for_a_while(seconds):
    """The last rank submits late, after reports of a stall; nothing fails."""
    hvd.init()
    first_waits = pathlib.Path("first_waits")
    if hvd.rank() == hvd.size() - 1:
        _wait_for(first_waits)
        time.sleep(seconds)  # The lateness that the report is about.
    calls = [threading.Thread(target=call, args=arguments) for call, arguments in
             ((hvd.barrier, ()), (hvd.broadcast_object, (1,)), (elastic._all_may, (True,)))]
    for call in calls:
        call.start()
    handle = hvd.allreduce_async(torch.ones(1), name="late", op=hvd.Sum)
    if hvd.rank() == 0:
        first_waits.touch()
    value = hvd.synchronize(handle).item()
    for call in calls:
        call.join()
    return value


def wait_without_the_interpreter(seconds):
    """Rank 0 waits for a rank that is late until another thread of rank 0 has counted for so long, by its
    own clock; what did the wait cost?"""
    hvd.init()
    hvd.allreduce(torch.ones(1), name="first")
    has_counted = pathlib.Path("has_counted")
    if hvd.rank() > 0:
        _wait_for(has_counted)
        hvd.allreduce(torch.ones(1), name="late")
        return None

    def count():
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        has_counted.touch()

    handle = hvd.allreduce_async(torch.ones(1), name="late")
    thread = threading.Thread(target=count)
    begin = time.monotonic()
    cpu = time.thread_time()
    thread.start()
    hvd.synchronize(handle)
    cpu = time.thread_time() - cpu
    waited = time.monotonic() - begin
    thread.join()
    return {"waiter_cpu": cpu, "waited": waited}


def fail_alone(victim):
    """The victim by an error of its own, which the others hear of: one of them wraps what it hears."""
    hvd.init()
    if hvd.rank() == victim:
        raise KeyError("no such column")
    try:
        hvd.barrier()
    except hvd.HorovodInternalError as error:
        if hvd.rank() == 0:
            raise
        raise OSError("nothing is saved") from error


def interrupt_a_wait():
    """Ctrl-C reaches a rank that waits for a tensor; the session goes on."""
    hvd.init()
    if hvd.rank() == 0:
        timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
        handle = hvd.allreduce_async(torch.ones(1000), name="interrupted", op=hvd.Sum)
        begin = time.monotonic()
        timer.start()
        try:
            hvd.synchronize(handle)
        except KeyboardInterrupt:
            seconds = time.monotonic() - begin
        hvd.barrier()
        assert hvd.allreduce(torch.ones(1), name="after", op=hvd.Sum) == hvd.size()
        return seconds
    hvd.barrier()
    hvd.allreduce(torch.ones(1000), name="interrupted", op=hvd.Sum)
    hvd.allreduce(torch.ones(1), name="after", op=hvd.Sum)
    return 0.0


def exit_without_shutdown():
    """The script just ends, as most scripts do; so does a process that it forked."""
    hvd.init()
    child = os.fork()
    if child == 0:
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    return hvd.allreduce(torch.ones(1), name="only", op=hvd.Sum).item()


def fail_to_init():
    try:
        hvd.init()
    except ValueError as error:
        assert not hvd.is_initialized()
        return str(error)
    return None


def show_settings():
    hvd.init()
    return {entry["variable"]: (entry["value"], entry["source"])
            for entry in hvd.info()["settings"]}


def use_before_init():
    errors = []
    for call in (hvd.rank, hvd.size, hvd.local_rank, hvd.local_size, hvd.cross_rank,
                 hvd.cross_size, hvd.is_homogeneous, hvd.barrier, hvd.stats,
                 lambda: hvd.allreduce(torch.ones(1)), hvd.compression_state):
        try:
            call()
            errors.append("none")
        except ValueError as error:
            errors.append(str(error))
    assert not hvd.is_initialized()
    hvd.shutdown()
    return errors
