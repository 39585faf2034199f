"""Served by scalecom."""

from scalecom.process_sets import (ProcessSet, add_process_set, global_process_set,
                                   remove_process_set)

from horovod.common.util import is_iterable  # noqa: E402, F401

__all__ = ["ProcessSet", "add_process_set", "global_process_set", "remove_process_set"]
