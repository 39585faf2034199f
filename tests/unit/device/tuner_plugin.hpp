#pragma once

#include <dlfcn.h>

#include <cstddef>

#include "tests/support/catch.hpp"

namespace scalecom::test {

/// A tuner as in NCCL 2.24's own header, by what the members are for.
struct TunerPlugin {
  const char* name;
  int (*init)(std::size_t ranks, std::size_t nodes, void* log, void** context);
  int (*get_coll_info)(void* context, int function, std::size_t bytes, int operations,
                       float** costs, int algorithms, int protocols, int is_registered,
                       int* channels);
  int (*destroy)(void* context);
};

/// This library's, found as NCCL finds it: by its symbol in the running program, which exports it.
inline const TunerPlugin& tuner_plugin() {
  static const auto* found =
      static_cast<const TunerPlugin*>(dlsym(dlopen(nullptr, RTLD_NOW), "ncclTunerPlugin_v4"));
  REQUIRE(found != nullptr);
  return *found;
}

}  // namespace scalecom::test
