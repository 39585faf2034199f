#include <string>

#include "mpi_plugin/make_mpi_backend.hpp"
#include "mpi_plugin/mpi_process.hpp"
#include "scalecom/export.hpp"

// What libscalecom looks up: kMpiBackendSymbol and kMpiVersionSymbol.
extern "C" SCALECOM_API scalecom::MpiBackend* scalecom_make_mpi_backend_v1() {
  return scalecom::make_mpi_backend().release();
}

extern "C" SCALECOM_API const char* scalecom_mpi_library_version_v1() {
  static const std::string version = scalecom::mpi_library_version();
  return version.c_str();
}
