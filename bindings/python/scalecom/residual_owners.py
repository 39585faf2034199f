"""Whose residuals are: a name's is its parameter's alone, of two models too."""

import logging
import weakref
from typing import NamedTuple

from scalecom.process_sets import global_process_set


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
    former = [one for one in mine or () if one.is_there()]
    if former and (former[-1].key == owner.key or former[-1].holder() is holder):
        del former[-1]  # The same by a new holder; or its holder has gone on to this one.
    if may_refuse and any(one.key == owner.key for one in former):
        raise ValueError(f"{name}: gradients of two parameters are compressed under this name in turns, and what one "
                         f"of them is owed would go to the other, because residuals are kept by name; give the "
                         f"parameters of each model names of their own: {remedy}")
    is_first = not any(len(others) > 1 for others in list(owners.values()))
    owners[name] = [*former, owner]
    if former and is_first:
        logging.getLogger("scalecom").warning(
            "%s: another parameter is compressed under this name now, and goes on with the residual of the former, "
            "which is still there. If both are trained, give the parameters of each model names of their own: %s",
            name, remedy)
