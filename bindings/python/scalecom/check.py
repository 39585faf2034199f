"""python -m scalecom.check: does this installation work here? Run it alone, under mpirun, scalecomrun
or torchrun."""

import argparse
import array
import ctypes
import sys

from scalecom import _library, basics
from scalecom.exceptions import HorovodInternalError


def _all_reduce_of_ones():
    values = array.array("f", [1.0])
    address, _ = values.buffer_info()
    shape = (ctypes.c_int64 * 1)(1)
    view = _library.Tensor(address, shape, 1, _library.FLOAT32)
    arguments = (b"scalecom.check", ctypes.byref(view), ctypes.byref(view), 1, 1.0, 1.0, None, 0)
    _library.submit(_library.lib.scalecom_all_reduce, arguments, values).wait()
    return values[0]


def _check():
    basics.init()
    total = _all_reduce_of_ones()
    assert total == basics.size(), f"the ranks add up to {total}, not {basics.size()}"
    if basics.rank() == 0:
        session = basics.info()["session"]
        print(f"scalecom {_library.version()} works: {session['size']} rank"
              f"{'' if session['size'] == 1 else 's'} over "
              f"{session['transport']} {session['mpi_library']}".rstrip())
    basics.shutdown()


def main():
    """Exit code: 1 where it does not work, with the reason."""
    argparse.ArgumentParser(prog="python -m scalecom.check", description=__doc__).parse_args()
    try:
        _check()
    except (ValueError, HorovodInternalError) as error:
        print(f"scalecom.check: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
