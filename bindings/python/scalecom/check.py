"""python -m scalecom.check: does this installation work here? Run it alone, under mpirun, scalecomrun
or torchrun."""

import argparse
import sys

from scalecom import _library, basics
from scalecom.exceptions import HorovodInternalError
from scalecom.reductions import Sum


def _check():
    basics.init()
    total = _library.all_reduce_number(b"scalecom.check", 1.0, Sum)
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
