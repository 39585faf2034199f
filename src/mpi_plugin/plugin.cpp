#include <string>

#include "mpi_plugin/make_mpi_backend.hpp"
#include "mpi_plugin/mpi_process.hpp"
#include "scalecom/export.hpp"

namespace scalecom {
namespace {

const char* library_version() {
  static const std::string version = mpi_library_version();
  return version.c_str();
}

constexpr MpiPlugin kPlugin{.library_version = library_version,
                            .initialise = ensure_mpi,
                            .renounce_finalize = renounce_finalize,
                            .make_backend = make_mpi_backend};

}  // namespace
}  // namespace scalecom

// What libscalecom looks up: kMpiPluginSymbol.
extern "C" SCALECOM_API const scalecom::MpiPlugin* scalecom_mpi_plugin_v5() {
  return &scalecom::kPlugin;
}
