#pragma once

#include <memory>

#include "mpi_plugin/mpi_backend.hpp"

namespace scalecom {

/// See MpiPlugin::make_backend.
std::unique_ptr<MpiBackend> make_mpi_backend(Bootstrap::Limit limit,
                                             Interrupt* interrupt = nullptr);

}  // namespace scalecom
