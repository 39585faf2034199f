#pragma once

#include <mpi.h>

#include <memory>

#include "collective/collectives.hpp"

namespace scalecom {

/// MPI's own collectives on `communicator`, which outlives them. The non-blocking forms, polled
/// under the library's wait discipline. What min and max do with NaN is MPI's choice, and the order
/// of a sum too.
std::unique_ptr<Collectives> make_mpi_collectives(MPI_Comm communicator);

}  // namespace scalecom
