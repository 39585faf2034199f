#pragma once

#include <mpi.h>

#include <string>

#include "scalecom/status.hpp"

namespace scalecom {

/// Throws Error with MPI's own text when `code` is not MPI_SUCCESS. A failure of MPI in a running
/// job nearly always means that a peer is gone; the control plane then names it.
inline void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(StatusCode::rank_lost, std::string(call) + " failed: " + text);
}

}  // namespace scalecom
