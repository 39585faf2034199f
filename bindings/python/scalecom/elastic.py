"""Elastic training for any framework: the loop that goes on without lost ranks, and its state."""

import copy
import functools

from scalecom import _library, basics, worker
from scalecom.exceptions import HorovodInternalError, HostsUpdatedInterrupt
from scalecom.reductions import Min

# Further resets without a commit in between are a program's error, not bad luck.
IDLE_RESETS_MAX = 10

_HOSTS = _library.own_name("question whether hosts have come or go (commit())")
_ATTRIBUTES = _library.own_name("attributes of the elastic state")
_HAS_STATE = f"allreduce.{_library.own_name('question which ranks need the elastic state')}".encode()


class State:
    """What training goes on from after a reset; save(), restore() and sync() are a subclass's.

    bcast_object(value, root_rank, name) and get_rank() are a framework's. is_cut_short: the function that run()
    has called returns before its work is done, and is to be called again.
    """

    is_cut_short = False

    def __init__(self, bcast_object, get_rank):
        self._bcast_object = bcast_object
        self._rank = get_rank
        self._reset_callbacks = []
        self._commits = 0

    def register_reset_callbacks(self, callbacks):
        """Functions to be called after each reset, when rank and size are the new ones: to adapt a
        learning rate, say."""
        self._reset_callbacks.extend(callbacks)

    def on_reset(self):
        """The ranks have met anew."""
        self.reset()
        for callback in self._reset_callbacks:
            callback()

    def commit(self):
        """Saves the state in memory, for restore(), and looks for changed hosts. On all ranks."""
        self.save()
        self._commits += 1
        self.check_host_updates()

    def check_host_updates(self):
        """Raises HostsUpdatedInterrupt on all ranks where hosts or ranks have come or go. On all
        ranks: rank 0 decides."""
        driver = worker.find_driver()
        if driver is None:
            return
        has_update = driver.has_update() if self._rank() == 0 else None
        if self._bcast_object(has_update, 0, _HOSTS):
            raise HostsUpdatedInterrupt()

    def save(self):
        raise NotImplementedError

    def restore(self):
        raise NotImplementedError

    def sync(self):
        raise NotImplementedError

    def sync_own(self):
        """In the place of sync() where all ranks have the state: only what each has of its own, which
        goes with a session or depends on the number of ranks."""

    def reset(self):
        pass


class ObjectState(State):
    """Attributes that can be pickled: `state = ObjectState(..., epoch=0)` has state.epoch."""

    def __init__(self, bcast_object, get_rank, **kwargs):
        super().__init__(bcast_object, get_rank)
        self._saved = dict(kwargs)
        self.restore()

    def _copied(self):
        return {name: copy.deepcopy(getattr(self, name)) for name in self._saved}

    def save(self):
        """Keeps copies of the attributes."""
        self._saved = self._copied()

    def restore(self):
        """Makes the attributes those that were saved last."""
        for name, value in copy.deepcopy(self._saved).items():
            setattr(self, name, value)

    def sync(self):
        """Gives all ranks rank 0's attributes, and saves them."""
        if not self._saved:
            return
        self._saved = self._bcast_object(self._copied(), 0, _ATTRIBUTES)
        ObjectState.restore(self)


def session_code():
    """Why the session has ended or failed; OK where it has not, or there is none."""
    return _library.lib.scalecom_session_status() if basics.is_initialized() else _library.OK


def find_failure(error):
    """The HorovodInternalError that an error stands for; None for the program's own errors."""
    if isinstance(error, HorovodInternalError):
        return error
    # As DistributedDataParallel passes on what its hook raises.
    if isinstance(error, RuntimeError) and (code := session_code()) != _library.OK:
        return HorovodInternalError(str(error), code=code)
    return None


def _check_recoverable(error, failure, driver):
    """Raises the error unless another meeting of the ranks may help."""
    if failure is None:
        raise error
    if failure.code == _library.MISMATCH:
        if driver is not None:
            driver.tell_mismatch(str(error))
        raise error
    if driver is None and _library.RANK_LOST in (
            failure.code, _library.lib.scalecom_session_status()):
        raise HorovodInternalError(str(error), code=_library.RANK_LOST) from error


def _keep(state, find_failure):
    """What is in the session, such as residuals, goes with it."""
    try:
        state.save()
    except Exception as error:
        if find_failure(error) is None:
            raise
        state.restore()  # A rank was lost just now.


def _reset(state):
    basics.shutdown()
    basics.init()
    state.on_reset()


def _all_may(skip):
    """Whether it is so on all ranks; who has come has not got the state."""
    if not basics.is_initialized():
        return skip
    return bool(_library.all_reduce_number(_HAS_STATE, skip, Min))


def _sync(state, skip):
    if _all_may(skip):
        state.sync_own()
    else:
        state.sync()
    if driver := worker.find_driver():
        driver.tell_state()


def _call(func, state, *args, **kwargs):
    while True:
        state.is_cut_short = False
        result = func(state, *args, **kwargs)
        if not state.is_cut_short:
            return result


def run(func, find_failure=find_failure):
    """Decorates func(state, ...): calls it again, from the last commit, after each loss of a rank.

    Before each call state.sync() gives all ranks the state of rank 0, which has been there longest.
    Where func raises HorovodInternalError, the state is restored; where it raises
    HostsUpdatedInterrupt, as commit() does, it is kept, and with skip_sync=True on all ranks not
    synchronised where nobody has come, but for residuals and samplers; then the session is shut down and the ranks
    that are there meet anew. Ranks that disagree (shape, dtype, op...) are an error of the program:
    it is raised. So is a lost rank where no driver (scalecomrun --elastic) started this process, and
    HorovodInternalError for more than 10 resets without a commit between them. find_failure: for
    adapters whose operations raise other errors.
    """

    @functools.wraps(func)
    def wrapper(state, *args, **kwargs):
        idle_resets = 0
        needs_reset = may_skip = False
        while True:
            commits = state._commits
            reason = None
            try:
                if needs_reset:
                    _reset(state)
                _sync(state, may_skip)
                may_skip = False
                return _call(func, state, *args, **kwargs)
            except HostsUpdatedInterrupt as update:
                _keep(state, find_failure)
                may_skip = bool(update.skip_sync)
            except Exception as error:
                _check_recoverable(error, find_failure(error), worker.find_driver())
                reason = error
                may_skip = False
                state.restore()
            idle_resets = idle_resets + 1 if state._commits == commits else 0
            if idle_resets > IDLE_RESETS_MAX:
                raise HorovodInternalError(
                    f"{IDLE_RESETS_MAX} resets followed each other without a commit(); the last "
                    f"reason: {reason or 'hosts changed'}") from reason
            needs_reset = True

    return wrapper
