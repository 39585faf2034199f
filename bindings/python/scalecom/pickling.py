"""How Python objects travel between ranks: by cloudpickle where it is installed, which takes lambdas
and functions of a script too, else by pickle."""

import pickle

try:
    import cloudpickle as _pickler
except ImportError:
    _pickler = pickle

TAKES_FUNCTIONS = _pickler is not pickle

dumps = _pickler.dumps
loads = pickle.loads


class Refusal:
    """Travels in the place of an object that its rank cannot give, so that no other waits for it."""

    def __init__(self, text):
        self.text = text


class _PackedRefusal(bytes):
    pass


def pack(value, rank):
    """This rank's object in bytes; where it cannot be pickled, what makes unpack() raise ValueError on
    every rank, as a Refusal does."""
    if isinstance(value, Refusal):
        return _PackedRefusal(pickle.dumps(value))
    try:
        return dumps(value)
    except Exception as error:
        remedy = "leave out what cannot" if TAKES_FUNCTIONS else (
            "install cloudpickle, which takes lambdas and local functions, on all ranks, or leave it out")
        return _PackedRefusal(pickle.dumps(Refusal(
            f"the object of rank {rank}, a {type(value).__name__}, cannot be pickled "
            f"({type(error).__name__}: {error}); {remedy}")))


def unpack(packed):
    value = loads(packed)
    if isinstance(value, Refusal):
        raise ValueError(value.text)
    return value


def sent(value, packed):
    """The value, which pack() made that of, on the rank that gave it."""
    return unpack(packed) if isinstance(packed, _PackedRefusal) else value
