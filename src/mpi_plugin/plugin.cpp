#include "mpi_plugin/make_mpi_backend.hpp"
#include "scalecom/export.hpp"

// The one symbol of the plugin: kMpiBackendSymbol.
extern "C" SCALECOM_API scalecom::MpiBackend* scalecom_make_mpi_backend_v1() {
  return scalecom::make_mpi_backend().release();
}
