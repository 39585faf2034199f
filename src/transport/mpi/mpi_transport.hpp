#pragma once

#include <mpi.h>

#include <memory>

#include "transport/transport.hpp"

namespace scalecom {

/// Messages over MPI_Isend and MPI_Irecv on `communicator`, which outlives the transport and whose
/// errors are returned (MPI_ERRORS_RETURN). All calls come from one thread at a time.
std::unique_ptr<Transport> make_mpi_transport(MPI_Comm communicator);

}  // namespace scalecom
