"""Claims about reading a CUDA tensor by DLPack's exchange interface, on a machine without one: the
interface is this program's, and tells of memory that is never looked at."""

import ctypes

import pytest

import scalecom.torch as hvd
from scalecom import _library

KINDS = {"cuda": 2, "rocm": 10}


class _Tensor(ctypes.Structure):
    """DLTensor"""
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32),
                ("device_id", ctypes.c_int32), ("dimensions", ctypes.c_int32),
                ("type_code", ctypes.c_uint8), ("type_bits", ctypes.c_uint8),
                ("type_lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
                ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64)]


_Borrow = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_Tensor))
_Stream = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int32, ctypes.c_int32,
                            ctypes.POINTER(ctypes.c_void_p))


class _Exchange(ctypes.Structure):
    """DLPackExchangeAPI"""
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32),
                ("others", ctypes.c_void_p * 4), ("borrow", _Borrow),
                ("current_work_stream", _Stream)]


class _Framework:
    """Its tensors are of 3 elements of float32 on device 5. Keeps the devices it was asked the stream
    of."""

    def __init__(self, kind, stream_status=0):
        self.asked = []
        shape = (ctypes.c_int64 * 1)(3)

        def borrow(_, tensor):
            tensor[0] = _Tensor(0x1000, KINDS[kind], 5, 1, 2, 32, 1, shape, None, 0)
            return 0

        def current_work_stream(kind, device, stream):
            self.asked.append((kind, device))
            stream[0] = 0x77
            return stream_status

        self.exchange = _Exchange(1, 0, borrow=_Borrow(borrow),
                                  current_work_stream=_Stream(current_work_stream))
        self.address = ctypes.addressof(self.exchange)

    def submit(self):
        """The code of the failure: nothing here has such a device."""
        reduction = _library.Reduction(1, 1.0, 1.0)
        pointer = _library.quick.scalecom_dlpack_all_reduce(
            self.address, b"exchanged", id(self), None, ctypes.addressof(reduction))
        assert pointer is None
        return _library.quick.scalecom_last_code()


def a_cuda_tensor_brings_device_and_stream():
    framework = _Framework("cuda")
    assert _library.quick.scalecom_dlpack_is_usable(framework.address)
    code = framework.submit()
    assert framework.asked == [(KINDS["cuda"], 5)]
    assert code in (_library.INVALID_ARGUMENT, _library.UNAVAILABLE), code
    with pytest.raises(ValueError, match="CUDA|cuda"):
        _library.check(code)


def a_stream_that_is_not_told_is_no_plain_tensor():
    assert _Framework("cuda", stream_status=-1).submit() == _library.NOT_PLAIN


def a_device_of_another_kind_is_no_plain_tensor():
    framework = _Framework("rocm")
    assert framework.submit() == _library.NOT_PLAIN
    assert framework.asked == []


def a_refused_tensor_is_not_in_flight():
    import torch
    assert hvd.allreduce(torch.ones(1), name="exchanged", op=hvd.Sum) == hvd.size()
