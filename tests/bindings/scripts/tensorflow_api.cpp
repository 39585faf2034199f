// Compiled with TensorFlow's headers, never run: our declarations of its C interface are the same.
#include <tensorflow/c/kernels.h>
#include <tensorflow/c/ops.h>
#include <tensorflow/c/tf_datatype.h>
#include <tensorflow/c/tf_status.h>
#include <tensorflow/c/tf_tensor.h>

#include <type_traits>

#include "bindings/tensorflow_ops/api.hpp"

namespace ours = scalecom::tensorflow;

namespace {

// TensorFlow's types as our declarations have them: its enums are int.
template <class T>
struct Ours {
  using Type = std::conditional_t<std::is_enum_v<T>, int, T>;
};
template <class T>
struct Ours<const T> {
  using Type = const typename Ours<T>::Type;
};
template <class T>
struct Ours<T*> {
  using Type = typename Ours<T>::Type*;
};
template <class Result, class... Arguments>
struct Ours<Result(Arguments...)> {
  using Type = typename Ours<Result>::Type(typename Ours<Arguments>::Type...);
};

#define STANDS_FOR(name)     \
  template <>                \
  struct Ours<::name> {      \
    using Type = ours::name; \
  };
STANDS_FOR(TF_AsyncOpKernelDoneCallback)
STANDS_FOR(TF_KernelBuilder)
STANDS_FOR(TF_OpDefinitionBuilder)
STANDS_FOR(TF_OpKernelConstruction)
STANDS_FOR(TF_OpKernelContext)
STANDS_FOR(TF_ShapeHandle)
STANDS_FOR(TF_ShapeInferenceContext)
STANDS_FOR(TF_Status)
STANDS_FOR(TF_Tensor)

}  // namespace

namespace scalecom::tensorflow {

#define IS_THE_SAME(name, ...) \
  static_assert(std::is_same_v<Ours<decltype(::name)>::Type, __VA_ARGS__>, #name);
SCALECOM_TENSORFLOW_FUNCTIONS(IS_THE_SAME)

}  // namespace scalecom::tensorflow

static_assert(sizeof(TF_DataType) == sizeof(int) && sizeof(TF_Code) == sizeof(int));
static_assert(TF_OK == ours::kOk && TF_UNKNOWN == ours::kUnknown);
static_assert(TF_INVALID_ARGUMENT == ours::kInvalidArgument && TF_ABORTED == ours::kAborted);
static_assert(TF_DEADLINE_EXCEEDED == ours::kDeadlineExceeded && TF_INTERNAL == ours::kInternal);
static_assert(TF_FAILED_PRECONDITION == ours::kFailedPrecondition);
static_assert(TF_UNAVAILABLE == ours::kUnavailable);
static_assert(TF_FLOAT == ours::kFloat && TF_DOUBLE == ours::kDouble && TF_HALF == ours::kHalf);
static_assert(TF_INT8 == ours::kInt8 && TF_INT16 == ours::kInt16 && TF_INT32 == ours::kInt32);
static_assert(TF_INT64 == ours::kInt64 && TF_UINT8 == ours::kUint8 && TF_BOOL == ours::kBool);
static_assert(TF_BFLOAT16 == ours::kBfloat16);
