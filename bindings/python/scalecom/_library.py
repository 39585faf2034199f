"""libscalecom.so and its C interface (scalecom/c_api.h), by ctypes.

Nothing is compiled against Python or a framework, so one build serves every version of both. ctypes
releases the interpreter lock during each call of `lib`: a waiting thread sleeps and holds nothing
up. Calls of `quick` keep it: they wait for nothing, and some read Python's objects.
"""

import array
import collections
import ctypes
import importlib.util
import json
import os
import pathlib
import time

from scalecom.exceptions import HorovodInternalError

OK = 0
INVALID_ARGUMENT = 1
MISMATCH = 2
SHUT_DOWN = 3
RANK_LOST = 4
TIMED_OUT = 5
UNAVAILABLE = 6
NOT_PLAIN = -1

# How the C interface counts them, by the names that numpy and every framework give them.
DTYPES = {"uint8": 0, "int8": 1, "int16": 2, "int32": 3, "int64": 4, "float16": 5, "float32": 6,
          "float64": 7, "bool": 8, "bfloat16": 9}


class Tensor(ctypes.Structure):
    """scalecom_tensor"""
    _fields_ = [("data", ctypes.c_void_p), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("dimensions", ctypes.c_int32), ("dtype", ctypes.c_int32),
                ("device_kind", ctypes.c_int32), ("device_index", ctypes.c_int32),
                ("stream", ctypes.c_void_p)]


class CompressionOptions(ctypes.Structure):
    """scalecom_compression, a key as it is: nobody changes one."""
    __hash__ = object.__hash__
    _fields_ = [("mode", ctypes.c_int32), ("rate", ctypes.c_int64), ("beta", ctypes.c_double),
                ("warmup_steps", ctypes.c_int64), ("values", ctypes.c_int32),
                ("guard", ctypes.c_double),
                ("ramp_steps", ctypes.c_int32)]


class Reduction(ctypes.Structure):
    """scalecom_reduction"""
    _fields_ = [("op", ctypes.c_int32), ("prescale", ctypes.c_double),
                ("postscale", ctypes.c_double), ("compression", CompressionOptions),
                ("priority", ctypes.c_int32)]


class Topology(ctypes.Structure):
    """scalecom_topology"""
    _fields_ = [(name, ctypes.c_int32)
                for name in ("rank", "size", "local_rank", "local_size", "cross_rank",
                             "cross_size", "is_homogeneous")]


def own_name(words, key=""):
    """The name of a tensor that an adapter makes for itself: where ranks wait for it, a report gives the
    words, which say what it is for, if its full name is this one behind an operation and a dot. Equal on all
    ranks; `key` keeps those of one purpose apart."""
    return f"scalecom[{words}]{key and f'.{key}'}"


def prefix():
    """Folder of the installed C++ parts: bin, lib, include."""
    return pathlib.Path(__file__).resolve().parent


# (context, mine, bytes of it, limit in seconds, where the ranks' bytes go) -> 0, or it has failed
Exchange = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                            ctypes.c_double, ctypes.c_void_p)


def _declare(library):
    c_int, c_char_p, c_double = ctypes.c_int, ctypes.c_char_p, ctypes.c_double
    c_int32, c_int64, pointer = ctypes.c_int32, ctypes.c_int64, ctypes.POINTER
    ticket = ctypes.c_void_p
    text = pointer(ctypes.c_void_p)
    signatures = {
        "scalecom_version": (c_char_p, []),
        "scalecom_last_error": (c_char_p, []),
        "scalecom_free": (None, [ctypes.c_void_p]),
        "scalecom_offer_nccl": (c_int, [c_char_p]),
        "scalecom_init": (c_int, []),
        "scalecom_shutdown": (c_int, []),
        "scalecom_is_initialized": (c_int, []),
        "scalecom_session_status": (c_int, []),
        "scalecom_process_set_add": (c_int, [pointer(c_int32), c_int32, pointer(c_int32)]),
        "scalecom_process_set_remove": (c_int, [c_int32]),
        "scalecom_process_set_connect": (c_int, [pointer(c_int32), c_int32, Exchange,
                                                 ctypes.c_void_p, pointer(c_int32)]),
        "scalecom_process_set_leave": (c_int, [c_int32]),
        "scalecom_exchanged_put": (c_int, [ctypes.c_void_p, c_int32, c_char_p, c_int64]),
        "scalecom_process_set_use": (c_int, [c_int32]),
        "scalecom_get_topology": (c_int, [pointer(Topology)]),
        "scalecom_all_reduce": (c_int, [c_char_p, pointer(Tensor), pointer(Tensor), c_int32,
                                        c_double, c_double, pointer(CompressionOptions),
                                        c_int32, pointer(ticket)]),
        "scalecom_all_reduce_group": (c_int, [pointer(c_char_p), pointer(Tensor), pointer(Tensor),
                                              c_int64, pointer(Reduction), pointer(ticket)]),
        "scalecom_all_gather": (c_int, [c_char_p, pointer(Tensor), pointer(ticket)]),
        "scalecom_all_gather_group": (c_int, [pointer(c_char_p), pointer(Tensor), c_int64,
                                              pointer(ticket)]),
        "scalecom_reduce_scatter_group": (c_int, [pointer(c_char_p), pointer(Tensor), c_int64, c_int32,
                                                  c_double, c_double, pointer(ticket)]),
        "scalecom_reduce_scatter": (c_int, [c_char_p, pointer(Tensor), c_int32, c_double, c_double,
                                            pointer(ticket)]),
        "scalecom_all_to_all": (c_int, [c_char_p, pointer(Tensor), pointer(c_int64), c_int32,
                                        pointer(ticket)]),
        "scalecom_broadcast": (c_int, [c_char_p, pointer(Tensor), c_int32, pointer(ticket)]),
        "scalecom_barrier": (c_int, [pointer(ticket)]),
        "scalecom_join": (c_int, [c_int32, pointer(ticket)]),
        "scalecom_ticket_wait": (c_int, [ticket, c_double]),
        "scalecom_ticket_output": (c_int, [ticket, pointer(Tensor)]),
        "scalecom_ticket_make_wait": (c_int, [ticket, ctypes.c_void_p]),
        "scalecom_ticket_copy_output": (c_int, [ticket, ctypes.c_void_p, ctypes.c_void_p]),
        "scalecom_ticket_received_splits": (c_int, [ticket, pointer(c_int64), c_int32]),
        "scalecom_residuals": (c_int, [text]),
        "scalecom_residual_get": (c_int, [c_char_p, ctypes.c_void_p, c_int64]),
        "scalecom_residual_restore": (c_int, [c_char_p, pointer(c_int64), c_int32, ctypes.c_void_p,
                                              c_int64, ctypes.c_double]),
        "scalecom_compression_stats": (c_int, [text]),
        "scalecom_explain_compression": (c_int, [c_int64, c_int32, c_int32,
                                                 pointer(CompressionOptions), text]),
        "scalecom_start_timeline": (c_int, [c_char_p, c_int]),
        "scalecom_stop_timeline": (c_int, []),
        "scalecom_stats": (c_int, [text]),
        "scalecom_info": (c_int, [text]),
    }
    return _typed(library, signatures)


def _declare_quick(library):
    address, c_int, c_int64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    return _typed(library, {
        "scalecom_last_code": (c_int, []),
        "scalecom_ticket_is_ready": (c_int, [address]),
        "scalecom_ticket_release": (None, [address]),
        "scalecom_dlpack_is_usable": (c_int, [address]),
        "scalecom_dlpack_all_reduce": (address, [address, ctypes.c_char_p, address, address,
                                                 address]),
        "scalecom_dlpack_all_reduce_group": (address, [address, ctypes.c_char_p, address, address,
                                                       c_int64, address]),
        "scalecom_dlpack_broadcast_group": (address, [address, ctypes.c_char_p, address, c_int64,
                                                      ctypes.c_int32]),
    })


def _typed(library, signatures):
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def _load():
    path = str(prefix() / "lib" / "libscalecom.so")
    try:
        return _declare(ctypes.CDLL(path)), _declare_quick(ctypes.PyDLL(path))
    except OSError as error:
        raise ImportError(f"scalecom's library cannot be loaded: {error}. "
                          "Install OpenSSL 3 (the Debian package libssl3) where it names libcrypto, "
                          "else scalecom again: "
                          "pip install .") from error


def find_nccl():
    """Path of NCCL's library in PyPI's nvidia-nccl-cu12 or -cu13, which the loader does not find; None
    where it is not installed. Imports nothing, since that is a framework's to do."""
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return None
    for folder in spec and spec.submodule_search_locations or ():
        path = pathlib.Path(folder, "nccl", "lib", "libnccl.so.2")
        if path.is_file():
            return str(path)
    return None


lib, quick = _load()
if nccl := find_nccl():
    lib.scalecom_offer_nccl(os.fsencode(nccl))


def version():
    """Version of the loaded library."""
    return lib.scalecom_version().decode()


def last_error():
    # What was wrong may be a path, or a value of the environment, that is no UTF-8.
    return lib.scalecom_last_error().decode(errors="replace")


def check(code):
    """Raises for a failed call: ValueError for the caller's mistake, else HorovodInternalError."""
    if code == OK:
        return
    if code in (INVALID_ARGUMENT, UNAVAILABLE):
        raise ValueError(last_error())
    check_result(code)


def check_result(code):
    """Raises HorovodInternalError where an operation that was submitted well has failed."""
    if code != OK:
        raise HorovodInternalError(last_error(), code=code)


def read_json(function, *arguments):
    """Result of a C function that hands out a JSON text, by its last argument."""
    text = ctypes.c_void_p()
    check(function(*arguments, ctypes.byref(text)))
    try:
        return json.loads(ctypes.string_at(text))
    finally:
        lib.scalecom_free(text)


class Ticket:
    """A submitted operation. Keeps what it works on alive until it is released."""

    __slots__ = ("_pointer", "_keep", "_is_complete")

    def __init__(self, pointer, keep):
        self._pointer = pointer
        self._keep = keep
        self._is_complete = False
        if _abandoned:
            _release_abandoned()

    def is_ready(self):
        return quick.scalecom_ticket_is_ready(self._pointer) == 1

    def wait(self, deadline=None):
        """Sleeps until completion. Looks up twice a second, so that ctrl-C works. TimeoutError when
        time.monotonic() has reached the deadline; the operation goes on."""
        limit_s = 0.5
        while True:
            if deadline is not None:
                limit_s = max(0.0, min(0.5, deadline - time.monotonic()))
            code = lib.scalecom_ticket_wait(self._pointer, limit_s)
            if code != TIMED_OUT or self.is_ready():
                break
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError
        if code == TIMED_OUT:  # It completed just now, or it failed with a time-out of its own.
            code = lib.scalecom_ticket_wait(self._pointer, -1.0)
        self._is_complete = True
        check_result(code)

    def output_shape(self):
        """Of the result of an operation that makes its own."""
        tensor = Tensor()
        check(lib.scalecom_ticket_output(self._pointer, ctypes.byref(tensor)))
        return tuple(tensor.shape[i] for i in range(tensor.dimensions))

    def copy_output(self, address, stream):
        """Copies that result to memory of its device; stream: of CUDA, as an address, or None."""
        check_result(lib.scalecom_ticket_copy_output(self._pointer, address, stream))

    def received_splits(self, ranks):
        """Rows that an all-to-all brought from each rank."""
        splits = (ctypes.c_int64 * ranks)()
        check(lib.scalecom_ticket_received_splits(self._pointer, splits, ranks))
        return list(splits)

    @staticmethod
    def _end(pointer, keep):
        """It completed, and nobody has waited for it."""
        quick.scalecom_ticket_release(pointer)

    def __del__(self):
        if self._is_complete:
            quick.scalecom_ticket_release(self._pointer)
        else:  # An interrupt, an error: the memory must outlive the operation.
            _end_or_keep(self._pointer, self._keep, self._end)


class Tickets:
    """The tickets of several submits, as one."""

    def __init__(self, tickets):
        self.tickets = tickets

    def is_ready(self):
        return all(ticket.is_ready() for ticket in self.tickets)

    def wait(self):
        """Sleeps until all have completed; raises the first's error of those that failed."""
        first_error = None
        for ticket in self.tickets:
            try:
                ticket.wait()
            except HorovodInternalError as error:
                first_error = first_error or error
        if first_error is not None:
            raise first_error


def run_all(submits):
    """Waits for the tickets that an iterable submits, also for those before one that is refused; raises the
    first error."""
    tickets = []
    try:
        for ticket in submits:
            tickets.append(ticket)
    finally:
        Tickets(tickets).wait()


# Tickets that were given up before they completed, with the memory they work on. Appending and
# popping need no lock.
_abandoned = collections.deque()


def _release_abandoned():
    for _ in range(len(_abandoned)):
        try:
            given_up = _abandoned.popleft()
        except IndexError:  # Another thread took the last one.
            return
        _end_or_keep(*given_up)


def _end_or_keep(pointer, keep, end):
    """Ends a ticket that has completed; keeps all others, and those that cannot end now: a stream that is
    captured into a graph can be made to wait for nothing."""
    try:
        if quick.scalecom_ticket_is_ready(pointer):
            return end(pointer, keep)
    except Exception:  # Nobody here has to do with that ticket.
        pass
    _abandoned.append((pointer, keep, end))


def submit(function, arguments, keep, ticket=Ticket):
    """Calls a submitting C function; `keep` stays alive with the ticket, which is made by
    `ticket`."""
    pointer = ctypes.c_void_p()
    check(function(*arguments, ctypes.byref(pointer)))
    return ticket(pointer, keep)


def submit_each(function, names, views, arguments, keep, ticket=Ticket):
    """As submit(), by a C function that takes a group: all of it, or nothing, is submitted. names, views and
    keep have one for each tensor; returns their tickets."""
    count = len(names)
    pointers = (ctypes.c_void_p * count)()
    check(function((ctypes.c_char_p * count)(*names), (Tensor * count)(*views), count, *arguments, pointers))
    return [ticket(ctypes.c_void_p(pointer), one) for pointer, one in zip(pointers, keep)]


def all_reduce_number(name, number, op):
    """The reduction, as float32, of a number of every rank under a full name; it waits for all of them."""
    values = array.array("f", [number])
    view = Tensor(values.buffer_info()[0], (ctypes.c_int64 * 1)(1), 1, DTYPES["float32"])
    arguments = (name, ctypes.byref(view), ctypes.byref(view), op, 1.0, 1.0, None, 0)
    submit(lib.scalecom_all_reduce, arguments, values).wait()
    return values[0]


def exchange_of(tensor_type):
    """Address of the DLPack exchange interface of a framework's tensors; None without one."""
    capsule = getattr(tensor_type, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi))
    address = pointer_of(capsule, b"dlpack_exchange_api")
    return address if quick.scalecom_dlpack_is_usable(address) else None


def check_objects():
    """Raises for a submit of objects that gave no ticket, unless the library could not read one."""
    code = quick.scalecom_last_code()
    if code != NOT_PLAIN:
        check(code)
