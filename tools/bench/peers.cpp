#include <dlfcn.h>

#include <string>

#include "scalecom/status.hpp"
#include "tools/bench/peer_library.hpp"

namespace scalecom::bench {

// By its name alone: the program's run path leads to the folder of libscalecom.so, where it lies.
// Never unloaded, like MPI in it.
std::unique_ptr<PeerLibrary> make_peer_library() {
  void* module = dlopen(kMpiPeerModule, RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) {
    throw Error(StatusCode::unavailable,
                std::string("--peers times MPI beside scalecom, and the part of scalecom-bench "
                            "that needs MPI cannot be loaded: ") +
                    dlerror() +
                    "; install Open MPI (libopenmpi-dev, openmpi-bin) and build scalecom again "
                    "with -DSCALECOM_WITH_MPI=ON");
  }
  const auto make = reinterpret_cast<MpiPeerFactory>(dlsym(module, kMpiPeerSymbol));
  if (make == nullptr) {
    throw Error(StatusCode::unavailable,
                std::string(kMpiPeerModule) + " is of another version of scalecom: " +
                    kMpiPeerSymbol + " is missing in it; reinstall scalecom");
  }
  return std::unique_ptr<PeerLibrary>(make());
}

}  // namespace scalecom::bench
