#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace scalecom::tensorflow {

// What TensorFlow hands out, by its names. They stand for its own types, whatever those are.
struct TF_AsyncOpKernelDoneCallback;
struct TF_KernelBuilder;
struct TF_OpDefinitionBuilder;
struct TF_OpKernelConstruction;
struct TF_OpKernelContext;
struct TF_ShapeHandle;
struct TF_ShapeInferenceContext;
struct TF_Status;
struct TF_Tensor;

/// Values of TF_Code and TF_DataType, which the functions below take as int.
enum Code : int {
  kOk = 0,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kFailedPrecondition = 9,
  kAborted = 10,
  kInternal = 13,
  kUnavailable = 14,
};
enum Type : int {
  kFloat = 1,
  kDouble = 2,
  kInt32 = 3,
  kUint8 = 4,
  kInt16 = 5,
  kInt8 = 6,
  kInt64 = 9,
  kBool = 10,
  kBfloat16 = 14,
  kHalf = 19,
};

using CreateKernel = void*(TF_OpKernelConstruction*);
using ComputeAsync = void(void* kernel, TF_OpKernelContext*, TF_AsyncOpKernelDoneCallback*);
using DeleteKernel = void(void* kernel);
using InferShapes = void(TF_ShapeInferenceContext*, TF_Status*);

/// The part of TensorFlow's C interface (c/kernels.h, c/ops.h, c/tf_tensor.h, c/tf_status.h) that
/// is used here, in declarations of our own: name and type of each function. A test compares them
/// with the headers of the TensorFlow that is installed.
#define SCALECOM_TENSORFLOW_FUNCTIONS(X)                                                           \
  X(TF_NewStatus, TF_Status*())                                                                    \
  X(TF_DeleteStatus, void(TF_Status*))                                                             \
  X(TF_SetStatus, void(TF_Status*, int code, const char* message))                                 \
  X(TF_GetCode, int(const TF_Status*))                                                             \
  X(TF_Message, const char*(const TF_Status*))                                                     \
  X(TF_TensorType, int(const TF_Tensor*))                                                          \
  X(TF_NumDims, int(const TF_Tensor*))                                                             \
  X(TF_Dim, std::int64_t(const TF_Tensor*, int dimension))                                         \
  X(TF_TensorByteSize, std::size_t(const TF_Tensor*))                                              \
  X(TF_TensorData, void*(const TF_Tensor*))                                                        \
  X(TF_DeleteTensor, void(TF_Tensor*))                                                             \
  X(TF_NewOpDefinitionBuilder, TF_OpDefinitionBuilder*(const char* name))                          \
  X(TF_OpDefinitionBuilderAddAttr, void(TF_OpDefinitionBuilder*, const char* attribute))           \
  X(TF_OpDefinitionBuilderAddInput, void(TF_OpDefinitionBuilder*, const char* input))              \
  X(TF_OpDefinitionBuilderAddOutput, void(TF_OpDefinitionBuilder*, const char* output))            \
  X(TF_OpDefinitionBuilderSetIsStateful, void(TF_OpDefinitionBuilder*, bool is_stateful))          \
  X(TF_OpDefinitionBuilderSetShapeInferenceFunction, void(TF_OpDefinitionBuilder*, InferShapes*))  \
  X(TF_RegisterOpDefinition, void(TF_OpDefinitionBuilder*, TF_Status*))                            \
  X(TF_ShapeInferenceContextNumInputs, std::int64_t(TF_ShapeInferenceContext*))                    \
  X(TF_NewShapeHandle, TF_ShapeHandle*())                                                          \
  X(TF_DeleteShapeHandle, void(TF_ShapeHandle*))                                                   \
  X(TF_ShapeInferenceContextScalar, TF_ShapeHandle*(TF_ShapeInferenceContext*))                    \
  X(TF_ShapeInferenceContextGetInput,                                                              \
    void(TF_ShapeInferenceContext*, int place, TF_ShapeHandle*, TF_Status*))                       \
  X(TF_ShapeInferenceContextSetOutput,                                                             \
    void(TF_ShapeInferenceContext*, int place, TF_ShapeHandle*, TF_Status*))                       \
  X(TF_ShapeInferenceContextSetUnknownShape, void(TF_ShapeInferenceContext*, TF_Status*))          \
  X(TF_NewAsyncKernelBuilder, TF_KernelBuilder*(const char* op, const char* device, CreateKernel*, \
                                                ComputeAsync*, DeleteKernel*))                     \
  X(TF_RegisterKernelBuilder, void(const char* name, TF_KernelBuilder*, TF_Status*))               \
  X(TF_OpKernelConstruction_Failure, void(TF_OpKernelConstruction*, TF_Status*))                   \
  X(TF_OpKernelConstruction_HasAttr, bool(TF_OpKernelConstruction*, const char* name, TF_Status*)) \
  X(TF_OpKernelConstruction_GetAttrSize,                                                           \
    void(TF_OpKernelConstruction*, const char* name, std::int32_t* list_size,                      \
         std::int32_t* total_size, TF_Status*))                                                    \
  X(TF_OpKernelConstruction_GetAttrInt32,                                                          \
    void(TF_OpKernelConstruction*, const char* name, std::int32_t* value, TF_Status*))             \
  X(TF_OpKernelConstruction_GetAttrString, void(TF_OpKernelConstruction*, const char* name,        \
                                                char* value, std::size_t length_max, TF_Status*))  \
  X(TF_OpKernelConstruction_GetAttrStringList,                                                     \
    void(TF_OpKernelConstruction*, const char* name, char** values, std::size_t* lengths,          \
         int values_max, void* storage, std::size_t storage_bytes, TF_Status*))                    \
  X(TF_NumInputs, int(TF_OpKernelContext*))                                                        \
  X(TF_GetInput, void(TF_OpKernelContext*, int place, TF_Tensor**, TF_Status*))                    \
  X(TF_AllocateOutput,                                                                             \
    TF_Tensor*(TF_OpKernelContext*, int place, int type, const std::int64_t* dimensions,           \
               int dimensions_count, std::size_t bytes, TF_Status*))                               \
  X(TF_ForwardInputOrAllocateOutput,                                                               \
    TF_Tensor*(TF_OpKernelContext*, const int* candidates, int candidates_count, int place,        \
               const std::int64_t* dimensions, int dimensions_count, int* forwarded, TF_Status*))  \
  X(TF_OpKernelContext_Failure, void(TF_OpKernelContext*, TF_Status*))                             \
  X(TF_RunAsyncOpKernelDoneCallback, void(TF_AsyncOpKernelDoneCallback*))

/// Those functions, in the copy of TensorFlow that is in the process.
struct Api {
#define SCALECOM_TENSORFLOW_MEMBER(name, ...) std::add_pointer_t<__VA_ARGS__> name = nullptr;
  SCALECOM_TENSORFLOW_FUNCTIONS(SCALECOM_TENSORFLOW_MEMBER)
#undef SCALECOM_TENSORFLOW_MEMBER
};

/// Null where no TensorFlow is in the process, or one that lacks a function.
const Api* find_api();

/// Requires find_api().
inline const Api& api() { return *find_api(); }

}  // namespace scalecom::tensorflow
