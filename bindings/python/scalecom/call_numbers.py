"""The numbers of calls without a name, by which the ranks' calls are matched."""

from scalecom.process_sets import _CALLS_OF_A_JOIN, _count_lock, count_call


def call_by_number(process_set, kind, call, refusals=Exception):
    """call(number), of an operation without a name; see count_call(). Where it raises one of `refusals`, by
    which nothing was submitted, the number is the next call's again: a rank that was refused may repeat."""
    number = count_call(process_set, kind)
    try:
        return call(number)
    except refusals:
        with _count_lock:
            count = process_set.name_counters.get(kind, 0)
            if process_set.joins * _CALLS_OF_A_JOIN + count == number + 1 and count:
                process_set.name_counters[kind] = count - 1  # No other came behind it, and no join.
        raise
