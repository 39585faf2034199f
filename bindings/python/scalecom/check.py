"""python -m scalecom.check: does this installation work here? Run it alone, under mpirun or
torchrun."""

import array
import ctypes

from scalecom import _library, basics


def _all_reduce_of_ones():
    values = array.array("f", [1.0])
    address, _ = values.buffer_info()
    shape = (ctypes.c_int64 * 1)(1)
    view = _library.Tensor(address, shape, 1, _library.FLOAT32)
    arguments = (b"scalecom.check", ctypes.byref(view), ctypes.byref(view), 1, 1.0, 1.0, None, 0)
    _library.submit(_library.lib.scalecom_all_reduce, arguments, values).wait()
    return values[0]


def main():
    basics.init()
    total = _all_reduce_of_ones()
    assert total == basics.size(), f"the ranks add up to {total}, not {basics.size()}"
    if basics.rank() == 0:
        session = basics.info()["session"]
        print(f"scalecom {_library.version()} works: {session['size']} ranks over "
              f"{session['transport']} {session['mpi_library']}".rstrip())
    basics.shutdown()


if __name__ == "__main__":
    main()
