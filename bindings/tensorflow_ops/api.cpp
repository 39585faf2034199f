#include "bindings/tensorflow_ops/api.hpp"

#include <dlfcn.h>

#include <memory>

namespace scalecom::tensorflow {
namespace {

constexpr const char* kLibrary = "libtensorflow_framework.so.2";

template <class Function>
bool find(void* library, const char* symbol, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, symbol));
  return function != nullptr;
}

std::unique_ptr<const Api> load() {
  // By its name in the process, whichever file it came from. Never closed: it stays anyway.
  void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  auto found = std::make_unique<Api>();
  bool is_whole = true;
#define SCALECOM_TENSORFLOW_FIND(name, ...) \
  is_whole = find(library, #name, found->name) && is_whole;
  SCALECOM_TENSORFLOW_FUNCTIONS(SCALECOM_TENSORFLOW_FIND)
#undef SCALECOM_TENSORFLOW_FIND
  return is_whole ? std::move(found) : nullptr;
}

}  // namespace

// Not destroyed: operations may be at work while the process exits.
const Api* find_api() {
  static const Api* const loaded = load().release();
  return loaded;
}

}  // namespace scalecom::tensorflow
