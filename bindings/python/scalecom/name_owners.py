"""A name is one parameter's alone, also where several models are trained: what is owed is kept by name
(process_set.residual_owners), and reductions are matched by name (process_set.reducing)."""

import gc
import logging
import weakref
from typing import NamedTuple

from scalecom.process_sets import global_process_set


_GIVE = "give the parameters of each model names of their own"


class _Owner(NamedTuple):
    key: int  # id() of the parameter, which is its own as long as the holder lives.
    holder: weakref.ref

    def is_there(self):
        return self.holder() is not None


def claim(process_set, name, parameter, holder, remedy, may_refuse=True):
    """The gradient of `parameter` is to be compressed under this name now. process_set: which reduces it; None for
    the global one. holder: what keeps the parameter as long as it is trained; torch does not swap a tensor that has
    a weak reference. remedy: how the user gives other names. Where another parameter had the name, and its holder
    lives, a warning says so, once. Raises ValueError where two take turns with it, if it may: on all ranks alike, as
    who is refused has its holder everywhere."""
    owners = (process_set or global_process_set).residual_owners
    mine = owners.get(name)
    if mine is not None and mine[-1].key == id(parameter) and mine[-1].is_there():
        return
    owner = _Owner(id(parameter), weakref.ref(holder))
    former = _those_before(owner, holder, mine or ())
    if may_refuse and any(one.key == owner.key for one in former):
        end_garbage()
        former = _those_before(owner, holder, mine)
        if any(one.key == owner.key for one in former):
            raise ValueError(f"{name}: gradients of two parameters are compressed under this name in turns, and what "
                             f"one of them is owed would go to the other, because residuals are kept by name; {_GIVE}: "
                             f"{remedy}")
    is_first = not any(len(others) > 1 for others in list(owners.values()))
    owners[name] = [*former, owner]
    if former and is_first:
        logging.getLogger("scalecom").warning(
            "%s: another parameter is compressed under this name now, and goes on with the residual of the former, "
            "which is still there. If both are trained, %s: %s", name, _GIVE, remedy)


def _those_before(owner, holder, owners):
    there = [one for one in owners if one.is_there()]
    if there and (there[-1].key == owner.key or there[-1].holder() is holder):
        del there[-1]  # The same by a new holder; or its holder has gone on to this one.
    return there


def end_garbage():
    """Ends what nobody has any more, before something is refused because it is there: on another rank the garbage
    collector may have come to it."""
    gc.collect()


def refuse_name(name, remedy):
    """Of a gradient, while another parameter's is being reduced under it."""
    raise ValueError(f"{name}: the gradient of another parameter is being reduced under this name, and ranks may differ "
                     f"in which comes first; {_GIVE}: {remedy}")
