"""Whose residuals are: a name's is its parameter's alone, of two models too."""

import logging
import weakref

from scalecom.process_sets import global_process_set


def claim(process_set, name, owner, remedy):
    """The gradient of `owner` is to be compressed under this name now. process_set: which reduces it; None for
    the global one. owner: the parameter, or another object that stands for it as long as it is trained. remedy:
    how the user gives other names. Raises ValueError where two owners take turns with a name, on all ranks
    alike: whether the first is still there is no matter. Where it is as the second comes, a warning says so."""
    owners = (process_set or global_process_set).residual_owners
    mine = owners.get(name)
    if mine is None:
        owners[name] = [weakref.ref(owner)]
    elif mine[-1]() is not owner:
        _hand_over(owners, name, owner, remedy)


def _hand_over(owners, name, owner, remedy):
    mine = owners[name]
    if any(former() is owner for former in mine):
        raise ValueError(f"{name}: gradients of two parameters are compressed under this name in turns, and what one "
                         f"of them is owed would go to the other, because residuals are kept by name; give the "
                         f"parameters of each model names of their own: {remedy}")
    is_first = not any(len(others) > 1 for others in owners.values())
    alive = [former for former in mine if former() is not None]
    owners[name] = [*alive, weakref.ref(owner)]
    if alive and is_first:
        logging.getLogger("scalecom").warning(
            "%s: another parameter is compressed under this name now, and goes on with the residual of the former, "
            "which is still there. If both are trained, give the parameters of each model names of their own: %s",
            name, remedy)
