"""scalecom.jax: its collectives on 1 to 3 ranks, its library, and what its import says."""

import pathlib
import re
import subprocess

import pytest
from conftest import mpirun_command
from jobs import BIN, rank_environment, run_limited

pytest.importorskip("jax", reason="jax is not installed")
pytest.importorskip("optax", reason="optax is not installed")

from programs.claims import names  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("module, claim", [
    (module, claim) for module in ("programs.jax_collectives", "programs.jax_optax", "programs.jax_devices")
    for claim in names(module)])
def test_jax(claims, ranks, module, claim):
    claims.check(ranks, module, claim)


@pytest.mark.parametrize("claim", names("programs.jax_ends"))
def test_ends(claims, claim):
    claims.check(3, "programs.jax_ends", claim)


@pytest.mark.parametrize("module", ["programs.jax_ends", "programs.jax_collectives", "programs.jax_optax"])
def test_claims_where_chains_go_through_programs(launch, module):
    """As on GPUs: with several devices JAX hands the chain from one program to the next."""
    verdicts = launch(2, "programs.claims:check_all", arguments={"module": module},
                      env={"XLA_FLAGS": "--xla_force_host_platform_device_count=2"})
    for rank, verdict in enumerate(verdicts):
        assert not any(verdict.values()), f"rank {rank}: {verdict}"


LAYOUT = """
#include <cstddef>
#include <type_traits>
#include "xla/ffi/api/c_api.h"
#include "bindings/jax_ffi/xla_ffi.hpp"
namespace ours = scalecom::xla;
// Of the member that all structures have: its type's name is another one from version 0.4 on.
using TheirExtension = std::remove_pointer_t<decltype(XLA_FFI_CallFrame::extension_start)>;
#define SAME(TYPE, MEMBER, THEIRS, THEIR_MEMBER) \\
  static_assert(offsetof(ours::TYPE, MEMBER) == offsetof(THEIRS, THEIR_MEMBER)); \\
  static_assert(sizeof(ours::TYPE::MEMBER) == sizeof(THEIRS::THEIR_MEMBER))
SAME(Extension, type, TheirExtension, type);
SAME(Extension, next, TheirExtension, next);
SAME(Version, major, XLA_FFI_Api_Version, major_version);
SAME(Version, minor, XLA_FFI_Api_Version, minor_version);
SAME(Metadata, version, XLA_FFI_Metadata, api_version);
SAME(Metadata, traits, XLA_FFI_Metadata, traits);
SAME(Metadata, state_type, XLA_FFI_Metadata, state_type_id);
SAME(MetadataExtension, metadata, XLA_FFI_Metadata_Extension, metadata);
SAME(ErrorArguments, message, XLA_FFI_Error_Create_Args, message);
SAME(ErrorArguments, code, XLA_FFI_Error_Create_Args, errc);
SAME(Api, version, XLA_FFI_Api, api_version);
SAME(Api, create_error, XLA_FFI_Api, XLA_FFI_Error_Create);
SAME(Api, get_stream, XLA_FFI_Api, XLA_FFI_Stream_Get);
SAME(Api, get_device, XLA_FFI_Api, XLA_FFI_DeviceOrdinal_Get);
SAME(StreamArguments, context, XLA_FFI_Stream_Get_Args, ctx);
SAME(StreamArguments, stream, XLA_FFI_Stream_Get_Args, stream);
SAME(DeviceArguments, context, XLA_FFI_DeviceOrdinal_Get_Args, ctx);
SAME(DeviceArguments, device, XLA_FFI_DeviceOrdinal_Get_Args, device_ordinal);
SAME(Buffer, type, XLA_FFI_Buffer, dtype);
SAME(Buffer, data, XLA_FFI_Buffer, data);
SAME(Buffer, dimensions, XLA_FFI_Buffer, rank);
SAME(Buffer, shape, XLA_FFI_Buffer, dims);
SAME(Buffers, size, XLA_FFI_Args, size);
SAME(Buffers, values, XLA_FFI_Args, args);
SAME(Buffers, types, XLA_FFI_Rets, types);
SAME(Buffers, values, XLA_FFI_Rets, rets);
SAME(Text, size, XLA_FFI_ByteSpan, len);
SAME(Array, size, XLA_FFI_Array, size);
SAME(Array, data, XLA_FFI_Array, data);
SAME(Attributes, size, XLA_FFI_Attrs, size);
SAME(Attributes, types, XLA_FFI_Attrs, types);
SAME(Attributes, names, XLA_FFI_Attrs, names);
SAME(Attributes, values, XLA_FFI_Attrs, attrs);
SAME(Call, api, XLA_FFI_CallFrame, api);
SAME(Call, context, XLA_FFI_CallFrame, ctx);
SAME(Call, stage, XLA_FFI_CallFrame, stage);
SAME(Call, arguments, XLA_FFI_CallFrame, args);
SAME(Call, results, XLA_FFI_CallFrame, rets);
SAME(Call, attributes, XLA_FFI_CallFrame, attrs);
SAME(Call, future, XLA_FFI_CallFrame, future);
static_assert(sizeof(ours::Call) == sizeof(XLA_FFI_CallFrame));
static_assert(sizeof(ours::Buffer) == sizeof(XLA_FFI_Buffer));
static_assert(ours::kMajorVersion == XLA_FFI_API_MAJOR && ours::kMinorVersion <= XLA_FFI_API_MINOR);
static_assert(ours::kMetadataExtension == XLA_FFI_Extension_Metadata);
static_assert(ours::kBuffer == XLA_FFI_ArgType_BUFFER && ours::kBuffer == XLA_FFI_RetType_BUFFER);
static_assert(ours::kArray == XLA_FFI_AttrType_ARRAY);
#define VALUE(KIND, NAME, THEIRS) static_assert(int(ours::KIND::NAME) == THEIRS)
VALUE(ElementType, boolean, XLA_FFI_DataType_PRED);
VALUE(ElementType, int8, XLA_FFI_DataType_S8);
VALUE(ElementType, int16, XLA_FFI_DataType_S16);
VALUE(ElementType, int32, XLA_FFI_DataType_S32);
VALUE(ElementType, int64, XLA_FFI_DataType_S64);
VALUE(ElementType, uint8, XLA_FFI_DataType_U8);
VALUE(ElementType, float16, XLA_FFI_DataType_F16);
VALUE(ElementType, float32, XLA_FFI_DataType_F32);
VALUE(ElementType, float64, XLA_FFI_DataType_F64);
VALUE(ElementType, bfloat16, XLA_FFI_DataType_BF16);
VALUE(ElementType, token, XLA_FFI_DataType_TOKEN);
VALUE(ErrorCode, unknown, XLA_FFI_Error_Code_UNKNOWN);
VALUE(ErrorCode, invalid_argument, XLA_FFI_Error_Code_INVALID_ARGUMENT);
VALUE(ErrorCode, deadline_exceeded, XLA_FFI_Error_Code_DEADLINE_EXCEEDED);
VALUE(ErrorCode, failed_precondition, XLA_FFI_Error_Code_FAILED_PRECONDITION);
VALUE(ErrorCode, aborted, XLA_FFI_Error_Code_ABORTED);
VALUE(ErrorCode, internal, XLA_FFI_Error_Code_INTERNAL);
VALUE(ErrorCode, unavailable, XLA_FFI_Error_Code_UNAVAILABLE);
"""


def test_the_layout_is_that_of_the_installed_jaxlib():
    import jax
    result = subprocess.run(
        ["c++", "-std=c++20", "-fsyntax-only", "-Wno-invalid-offsetof", "-x", "c++", "-I", ROOT,
         "-I", jax.ffi.include_dir(), "-"], input=LAYOUT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr[-3000:]


def _python(program):
    return subprocess.run([BIN / "python", "-c", program], capture_output=True, text=True, timeout=120)


def test_without_jax_the_import_says_what_to_install():
    result = _python("import sys; sys.modules['jax'] = None\nimport scalecom.jax")
    assert result.returncode == 1 and "pip install jax" in result.stderr


def test_an_untested_version_is_named():
    result = _python("import jax; jax.__version__ = '0.4.38'\nimport scalecom.jax")
    assert result.returncode == 0 and "tested with 0.10 and 0.11" in result.stderr, result.stderr


def test_a_jax_without_what_chains_inside_programs_take_keeps_its_way():
    """As 0.9 is."""
    result = _python("""
import jax, jax.extend.core
del jax.extend.core.new_jaxpr_eqn
import scalecom.jax as hvd
hvd.init()
assert jax.jit(hvd.allreduce)(jax.numpy.ones(2)).tolist() == [1, 1]
""")
    assert result.returncode == 0, result.stderr


def test_a_program_for_cuda_calls_the_same_names_in_one_chain():
    """Compiled nowhere: what XLA would get for a machine with a GPU."""
    result = _python("""
import jax, scalecom.jax as hvd
hvd.init()
def step(x):
    return hvd.broadcast(hvd.allreduce(x), 0)
names = ("scalecom_jax_all_reduce", "scalecom_jax_broadcast")
exported = jax.export.export(jax.jit(step), platforms=["cuda"], disabled_checks=[
    jax.export.DisabledSafetyCheck.custom_call(name) for name in names])(jax.numpy.ones(2))
lines = [line for line in exported.mlir_module().splitlines() if "custom_call @scalecom" in line]
assert [name for line in lines for name in names if f"@{name}(" in line] == list(names), lines
assert all("!stablehlo.token" in line for line in lines), lines
assert all("operand_index = 1" in line for line in lines), lines
""")
    assert result.returncode == 0, result.stderr


def test_without_a_stream_a_handler_for_cuda_gives_back_what_xla_says():
    result = _python("""
import jax, scalecom.jax as hvd
from scalecom.jax.primitives import _handlers
jax.ffi.register_ffi_target("misplaced", jax.ffi.pycapsule(_handlers.scalecom_jax_cuda_barrier))
jax.block_until_ready(jax.ffi.ffi_call("misplaced", jax.ShapeDtypeStruct((2,), "float32"))())
""")
    assert result.returncode == 1 and re.search("JaxRuntimeError: .*(stream|GPU)", result.stderr)


def test_without_a_session_a_call_says_so():
    result = _python("import jax, scalecom.jax as hvd\nhvd.allreduce(jax.numpy.ones(2))"
                     ".block_until_ready()")
    assert result.returncode == 1 and "call init() first" in result.stderr, result.stderr


@pytest.mark.parametrize("compression", ["none", "scalecom"])
def test_the_example_trains_and_keeps_the_ranks_equal(run_example, compression):
    figures = run_example(2, "jax_fashion_mnist.py", "--compression", compression, "--epochs", "1",
                          "--steps", "60")
    assert len(set(figures["parameter_checksums"])) == 1
    assert figures["test_accuracy"] > 0.6
    dense_bytes = 60 * 4 * 814090
    assert figures["bytes_sent"] < dense_bytes / 20 if compression == "scalecom" else (
        figures["bytes_sent"] > 0.9 * dense_bytes)


def test_the_bench_of_frameworks_compares_each_way_with_an_identity():
    command = [*mpirun_command(2), str(BIN / "python"), str(ROOT / "tools/bench/frameworks"),
               "--frameworks", "torch,jax", "--rounds", "2", "--calls", "3"]
    status, output = run_limited(command, 120, env=rank_environment())
    for way in ("torch", "JAX, outside of jit", "JAX, inside of jit"):
        assert status == 0 and way in output, output
