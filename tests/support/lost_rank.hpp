#pragma once

#include "base/wait.hpp"
#include "scalecom/status.hpp"

namespace scalecom::test {

/// Ends the first wait that looks at it, as the coordinator's does once a rank is lost.
class LostRank final : public Interrupt {
 public:
  void check() override { throw Error(StatusCode::rank_lost, "rank 2 is lost"); }
};

}  // namespace scalecom::test
