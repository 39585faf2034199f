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
