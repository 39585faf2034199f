#pragma once

#include <mpi.h>

#include <string>

#include "base/lost_rank.hpp"
#include "base/wait.hpp"
#include "scalecom/status.hpp"

namespace scalecom {

/// internal for what only a wrong call of ours causes, else rank_lost: a failure of MPI in a
/// running job nearly always means that a peer is gone; the control plane then names it.
inline StatusCode status_of_mpi(int code) {
  int error_class = MPI_ERR_UNKNOWN;
  MPI_Error_class(code, &error_class);
  switch (error_class) {
    case MPI_ERR_TRUNCATE:
    case MPI_ERR_BUFFER:
    case MPI_ERR_COUNT:
    case MPI_ERR_TYPE:
    case MPI_ERR_TAG:
    case MPI_ERR_COMM:
    case MPI_ERR_RANK:
    case MPI_ERR_ROOT:
    case MPI_ERR_OP:
    case MPI_ERR_REQUEST:
    case MPI_ERR_ARG: return StatusCode::internal;
    default: return StatusCode::rank_lost;
  }
}

/// Throws Error with MPI's own text, and what helps, when `code` is not MPI_SUCCESS.
inline void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  const StatusCode status = status_of_mpi(code);
  std::string message = std::string(call) + " failed: " + text;
  if (status == StatusCode::rank_lost) {
    message +=
        std::string("; another rank's process or its network may be gone: ") + kLostRankRemedy;
  }
  throw Error(status, message);
}

/// Waits for a non-blocking `call`. After a failure the call stays behind: MPI cannot withdraw a
/// collective.
inline void wait_for_mpi(MPI_Request& request, const WaitContext& context, const char* call) {
  WaitLoop loop(context);
  int is_done = 0;
  while (true) {
    check_mpi(MPI_Test(&request, &is_done, MPI_STATUS_IGNORE), call);
    if (is_done != 0) return;
    loop.pause(call);
  }
}

}  // namespace scalecom
