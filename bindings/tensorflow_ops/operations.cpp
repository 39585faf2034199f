// What tf.load_op_library() finds: the operations, defined when this library is loaded.
#include <algorithm>
#include <exception>
#include <locale>
#include <memory>
#include <sstream>

#include "bindings/tensorflow_ops/kernels.hpp"

namespace scalecom::tensorflow {
namespace {

struct Size {
  std::size_t count, bytes;
};

bool has(TF_OpKernelConstruction* construction, const char* attribute) {
  const StatusHolder status;
  const bool answer = api().TF_OpKernelConstruction_HasAttr(construction, attribute, status.get());
  status.check();
  return answer;
}

// TensorFlow says -1 of what an attribute has not: a number of strings, or bytes where there are
// none.
Size read_size(TF_OpKernelConstruction* construction, const char* attribute) {
  if (!has(construction, attribute)) return {};
  const StatusHolder status;
  std::int32_t count = 0, bytes = 0;
  api().TF_OpKernelConstruction_GetAttrSize(construction, attribute, &count, &bytes, status.get());
  status.check();
  return {static_cast<std::size_t>(std::max(count, 0)),
          static_cast<std::size_t>(std::max(bytes, 0))};
}

std::string read_string(TF_OpKernelConstruction* construction, const char* attribute) {
  std::string value(read_size(construction, attribute).bytes, '\0');
  if (value.empty()) return value;
  const StatusHolder status;
  api().TF_OpKernelConstruction_GetAttrString(construction, attribute, value.data(), value.size(),
                                              status.get());
  status.check();
  return value;
}

std::vector<std::string> read_strings(TF_OpKernelConstruction* construction,
                                      const char* attribute) {
  const Size size = read_size(construction, attribute);
  if (size.count == 0) return {};
  const StatusHolder status;
  std::vector<char*> values(size.count);
  std::vector<std::size_t> lengths(size.count);
  std::vector<char> storage(size.bytes);
  api().TF_OpKernelConstruction_GetAttrStringList(construction, attribute, values.data(),
                                                  lengths.data(), static_cast<int>(size.count),
                                                  storage.data(), storage.size(), status.get());
  status.check();
  std::vector<std::string> strings;
  for (std::size_t i = 0; i < values.size(); ++i) strings.emplace_back(values[i], lengths[i]);
  return strings;
}

int read_int(TF_OpKernelConstruction* construction, const char* attribute) {
  if (!has(construction, attribute)) return 0;
  const StatusHolder status;
  std::int32_t value = 0;
  api().TF_OpKernelConstruction_GetAttrInt32(construction, attribute, &value, status.get());
  status.check();
  return value;
}

// The members of scalecom_reduction in their order, with spaces between: numbers that a graph keeps
// exactly, where TensorFlow's own attributes have 32 bits.
scalecom_reduction parse_reduction(const std::string& text) {
  scalecom_reduction value{};
  std::istringstream in(text);
  in.imbue(std::locale::classic());
  scalecom_compression& compression = value.compression;
  in >> value.op >> value.prescale >> value.postscale >> compression.mode >> compression.rate >>
      compression.beta >> compression.warmup_steps >> compression.values >> compression.guard >>
      compression.ramp_steps >> value.priority;
  if (in.fail()) throw Failure{kInvalidArgument, "reduction is \"" + text + "\", not 11 numbers"};
  return value;
}

void read_reductions(TF_OpKernelConstruction* construction, Node& node) {
  std::vector<std::string> known;
  for (std::string& text : read_strings(construction, "reductions")) {
    const auto found = std::find(known.begin(), known.end(), text);
    node.choices.push_back(static_cast<std::size_t>(found - known.begin()));
    if (found != known.end()) continue;
    node.reductions.push_back(parse_reduction(text));
    known.push_back(std::move(text));
  }
}

void* refuse(TF_OpKernelConstruction* construction, const Failure& failure) {
  StatusHolder status;
  status.set(failure);
  api().TF_OpKernelConstruction_Failure(construction, status.get());
  return nullptr;
}

void* create_node(TF_OpKernelConstruction* construction) {
  try {
    auto node = std::make_unique<Node>();
    node->prefix = read_string(construction, "prefix");
    node->suffixes = read_strings(construction, "suffixes");
    node->root = read_int(construction, "root");
    node->process_set = read_int(construction, "process_set");
    node->fact = read_int(construction, "fact");
    read_reductions(construction, *node);
    return node.release();
  } catch (const Failure& failure) {
    return refuse(construction, failure);
  } catch (const std::exception& error) {
    return refuse(construction, {kInternal, error.what()});
  }
}

void delete_node(void* node) { delete static_cast<Node*>(node); }

template <const Work& work>
void compute(void* node, TF_OpKernelContext* context, TF_AsyncOpKernelDoneCallback* done) {
  if (Done copy = copy_done(done)) {
    Call::start(*static_cast<const Node*>(node), work, context, std::move(copy));
    return;
  }
  StatusHolder status;
  status.set({kInternal, "this TensorFlow's callbacks are not what scalecom knows"});
  api().TF_OpKernelContext_Failure(context, status.get());
  api().TF_RunAsyncOpKernelDoneCallback(done);
}

void infer_nothing(TF_ShapeInferenceContext* context, TF_Status* status) {
  api().TF_ShapeInferenceContextSetUnknownShape(context, status);
}

void infer_scalar(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeHandle* scalar = api().TF_ShapeInferenceContextScalar(context);
  api().TF_ShapeInferenceContextSetOutput(context, 0, scalar, status);
  api().TF_DeleteShapeHandle(scalar);
}

// Outputs have the shapes of the tensors, which follow the number of the call.
void infer_same(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeHandle* shape = api().TF_NewShapeHandle();
  const auto inputs = static_cast<int>(api().TF_ShapeInferenceContextNumInputs(context));
  for (int i = 1; i < inputs && api().TF_GetCode(status) == kOk; ++i) {
    api().TF_ShapeInferenceContextGetInput(context, i, shape, status);
    api().TF_ShapeInferenceContextSetOutput(context, i - 1, shape, status);
  }
  api().TF_DeleteShapeHandle(shape);
}

using Attributes = std::vector<const char*>;

struct Definition {
  const char* name;
  std::vector<const char*> inputs, outputs;
  const char* types;  ///< attribute; null for none
  InferShapes* infer;
  ComputeAsync* compute;
  Attributes attributes;
};

// Stateful: never left out, merged with an equal one or computed in advance, and in a tf.function
// one after the other, on all ranks in the same order.
void define(const Definition& operation) {
  TF_OpDefinitionBuilder* builder = api().TF_NewOpDefinitionBuilder(operation.name);
  for (const char* input : operation.inputs) api().TF_OpDefinitionBuilderAddInput(builder, input);
  for (const char* output : operation.outputs) {
    api().TF_OpDefinitionBuilderAddOutput(builder, output);
  }
  if (operation.types != nullptr) {
    api().TF_OpDefinitionBuilderAddAttr(builder, operation.types);
  }
  for (const char* attribute : operation.attributes) {
    api().TF_OpDefinitionBuilderAddAttr(builder, attribute);
  }
  api().TF_OpDefinitionBuilderSetIsStateful(builder, true);
  api().TF_OpDefinitionBuilderSetShapeInferenceFunction(builder, operation.infer);
  const StatusHolder status;
  api().TF_RegisterOpDefinition(builder, status.get());
  status.check();
  api().TF_RegisterKernelBuilder(operation.name,
                                 api().TF_NewAsyncKernelBuilder(operation.name, "CPU", create_node,
                                                                operation.compute, delete_node),
                                 status.get());
  status.check();
}

// Operations that are not there are reported by Python, which looks for them.
__attribute__((constructor)) void define_operations() {
  if (find_api() == nullptr) return;
  constexpr const char* kCall = "call: int64";
  constexpr const char* kTensors = "T: list(type)";
  constexpr const char* kPrefix = "prefix: string = ''";
  constexpr const char* kSuffixes = "suffixes: list(string) = []";
  constexpr const char* kRoot = "root: int = 0";
  constexpr const char* kReductions = "reductions: list(string) = []";
  constexpr const char* kSet = "process_set: int = 0";
  constexpr const char* kFactAttribute = "fact: int = 0";
  const std::vector<const char*> tensors{kCall, "tensors: T"};
  // An eager call sets each attribute and looks its kernel up by all of them, 0.7 us for each: what
  // works on tensors has those alone that it reads.
  const Attributes names{kPrefix, kSuffixes, kSet};
  const Attributes reductions{kPrefix, kSuffixes, kReductions, kSet};
  const Attributes root{kPrefix, kSuffixes, kRoot, kSet};
  const Attributes all{kPrefix, kSuffixes, kRoot, kReductions, kSet, kFactAttribute};
  const Definition definitions[] = {
      {"ScalecomAllReduce",
       tensors,
       {"reduced: T"},
       kTensors,
       infer_same,
       compute<kAllReduce>,
       reductions},
      {"ScalecomAllGather",
       tensors,
       {"gathered: T"},
       kTensors,
       infer_nothing,
       compute<kAllGather>,
       names},
      {"ScalecomReduceScatter",
       tensors,
       {"scattered: T"},
       kTensors,
       infer_nothing,
       compute<kReduceScatter>,
       reductions},
      {"ScalecomBroadcast",
       tensors,
       {"copies: T"},
       kTensors,
       infer_same,
       compute<kBroadcast>,
       root},
      {"ScalecomAllToAll",
       {kCall, "rows: T", "splits: int64"},
       {"received: T", "received_splits: int64"},
       "T: type",
       infer_nothing,
       compute<kAllToAll>,
       names},
      {"ScalecomBarrier", {}, {}, nullptr, infer_nothing, compute<kBarrier>, all},
      {"ScalecomFact", {}, {"value: int32"}, nullptr, infer_scalar, compute<kFact>, all},
      {"ScalecomSelfTest",
       {"number: int32"},
       {"doubled: int32"},
       nullptr,
       infer_nothing,
       compute<kSelfTest>,
       all},
  };
  try {
    for (const Definition& definition : definitions) define(definition);
  } catch (const Failure&) {
  }
}

}  // namespace
}  // namespace scalecom::tensorflow
