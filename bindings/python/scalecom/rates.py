"""Rates, and modes, by parameter name: a dict, or a file of one."""

import fnmatch
import json
import math
import numbers
import os

RATE_MAX = 65536

# As the C interface counts them.
MODES = {"cyclic": 1, "sharded": 2, "hierarchical": 4, "auto": 5, None: 3}

_ALLOWED = f"allowed are whole numbers from 1 to {RATE_MAX}"


def is_whole(value):
    return (isinstance(value, numbers.Real) and not isinstance(value, bool) and
            math.isfinite(value) and value == int(value))


def checked_rate(rate):
    """A rate as int; ValueError for what is none."""
    if not is_whole(rate) or not 1 <= rate <= RATE_MAX:
        raise ValueError(f"rate is {rate!r}; {_ALLOWED}")
    return int(rate)


def check_choice(name, value, allowed):
    """Raises ValueError for what is none of these texts, or None."""
    if not any(value is one or (isinstance(value, str) and value == one) for one in allowed):
        raise ValueError(f"{name} is {value!r}; allowed are {', '.join(map(repr, allowed))}")


def _checked_way(way):
    """A rate, {"rate": of that, "mode": of MODES}, or None."""
    if isinstance(way, tuple):  # An object of a file.
        way = dict(way)
    if not isinstance(way, dict):
        try:
            return None if way is None else checked_rate(way)
        except ValueError as error:
            raise ValueError(f"{error}, or None (null in a file) for dense") from None
    if set(way) != {"rate", "mode"}:
        raise ValueError(f'it is {way!r}; {_ALLOWED}, {{"rate": one of these, "mode": a mode}}, and None (null in a '
                         "file) for dense")
    check_choice("mode", way["mode"], MODES)
    return {"rate": checked_rate(way["rate"]), "mode": way["mode"]}


def checked_rates(rates):
    """Rates by pattern, from a dict or the path of a JSON file that holds one object. Values are
    rates, {"rate": ..., "mode": ...}, or None (null) for dense. ValueError names what is wrong, and in which file."""
    if rates is None:
        return {}
    if isinstance(rates, (str, os.PathLike)):
        return _checked(_read(rates), f"{os.fspath(rates)}: ")
    if not isinstance(rates, dict):
        raise ValueError(f"rates is {rates!r}; it must be a dict of pattern and rate, or the path of "
                         "a JSON file that holds one")
    return _checked(rates.items(), "")


def _read(path):
    """The pairs of a file's object, in its order."""
    shape = 'it must hold one JSON object of pattern and rate, as {"fc*.weight": 400, "conv1.*": null}'
    try:
        with open(path, encoding="utf-8") as file:
            # Pairs, because a dict would hide a pattern that is there twice.
            content = json.load(file, object_pairs_hook=tuple)
    except OSError as error:
        raise ValueError(f"the file of rates cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}, column {error.colno}: {error.msg}; "
                         f"{shape}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it is not UTF-8 ({error}); {shape}") from error
    if not isinstance(content, tuple):
        raise ValueError(f"{path}: it holds {json.dumps(content)[:100]}; {shape}")
    return content


def _checked(pairs, where):
    checked = {}
    for pattern, rate in pairs:
        if not isinstance(pattern, str):
            raise ValueError(f"{where}a pattern of rates is {pattern!r}; it must be a text, such as "
                             "'fc*.weight'")
        if pattern in checked:
            raise ValueError(f"{where}the pattern {pattern!r} of rates is there twice; the first that "
                             "matches counts, so leave one out")
        try:
            checked[pattern] = _checked_way(rate)
        except ValueError as error:
            raise ValueError(f"{where}the pattern {pattern!r} of rates: {error}") from None
    return checked


def check_patterns(rates, names):
    """Raises ValueError for a pattern that matches none of the names."""
    for pattern in rates:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"the pattern {pattern!r} of rates matches no parameter; there "
                             f"are {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}")
