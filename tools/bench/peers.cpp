#include "scalecom/status.hpp"
#include "tools/bench/peer_library.hpp"

namespace scalecom::bench {

std::unique_ptr<PeerLibrary> make_peer_library() {
  throw Error(StatusCode::unavailable,
              "--peers times MPI beside scalecom, and this scalecom-bench was built without MPI; "
              "install libopenmpi-dev and openmpi-bin, and build it again with "
              "-DSCALECOM_WITH_MPI=ON");
}

}  // namespace scalecom::bench
