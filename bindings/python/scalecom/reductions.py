"""The reductions that every adapter offers, by Horovod's numbers."""

import math
import numbers

Average = 0
Sum = 1
Adasum = 2
Min = 3
Max = 4
Product = 5

_WORDS = ("Average", "Sum", "Adasum", "Min", "Max", "Product")  # By number.


def choose_op(average, op):
    """The op that `average`, of Horovod's older interface, and `op` ask for. ValueError where both
    do, or for what is none."""
    if average is not None and op is not None:
        raise ValueError("average and op are both given; use op alone")
    if op is None:
        op = Average if average is None or average else Sum  # 0 and numpy's False are as False, as in Horovod.
    if not isinstance(op, int):
        raise_bad_op(op)
    return op


def check_predivide_factor(factor, op):
    """Raises ValueError for a gradient_predivide_factor that is no number above 0, or that meets no average."""
    if not isinstance(factor, numbers.Real) or not 0 < factor < math.inf:
        raise ValueError(f"gradient_predivide_factor is {factor!r}; it must be a number above 0")
    if factor != 1.0 and op != Average:
        raise ValueError("gradient_predivide_factor needs op=Average")


def word_of(op):
    """An op as errors name it; what is none as it is."""
    return _WORDS[op] if type(op) is int and 0 <= op < len(_WORDS) else repr(op)


def raise_bad_op(op):
    raise ValueError(f"op is {op!r}; allowed are {', '.join(_WORDS[:-1])} and {_WORDS[-1]}")
