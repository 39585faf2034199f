#include "bindings/tensorflow_ops/done.hpp"

#include <link.h>

#include <cstdint>
#include <cstring>

namespace scalecom::tensorflow {
namespace {

// libstdc++'s std::function: what it holds, and the two functions that handle it.
struct Layout {
  void* held[2];
  void* manager;
  void* invoker;
};
static_assert(sizeof(Layout) == sizeof(Done));

struct Search {
  std::uintptr_t address;
  bool is_code;
};

int look_at_library(dl_phdr_info* info, std::size_t, void* context) {
  auto& search = *static_cast<Search*>(context);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& part = info->dlpi_phdr[i];
    const std::uintptr_t begin = info->dlpi_addr + part.p_vaddr;
    if (part.p_type == PT_LOAD && (part.p_flags & PF_X) != 0 && search.address >= begin &&
        search.address - begin < part.p_memsz) {
      search.is_code = true;
    }
  }
  return search.is_code ? 1 : 0;
}

bool is_code(const void* address) {
  Search search{reinterpret_cast<std::uintptr_t>(address), false};
  dl_iterate_phdr(look_at_library, &search);
  return search.is_code;
}

// A look at each library costs microseconds, and few functions come again and again.
bool is_known_code(const void* address) {
  thread_local const void* known[2] = {};
  for (const void*& one : known) {
    if (one == address) return true;
  }
  if (!is_code(address)) return false;
  known[1] = known[0];
  known[0] = address;
  return true;
}

}  // namespace

Done copy_done(const TF_AsyncOpKernelDoneCallback* done) {
  Layout layout;
  std::memcpy(&layout, done, sizeof layout);
  if (!is_known_code(layout.manager) || !is_known_code(layout.invoker)) return {};
  return *reinterpret_cast<const Done*>(done);
}

}  // namespace scalecom::tensorflow
