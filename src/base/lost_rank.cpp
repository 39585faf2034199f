#include "base/lost_rank.hpp"

#include <fmt/format.h>

namespace scalecom {

Error lost_rank(int rank, const std::string& cause) {
  return {StatusCode::rank_lost,
          fmt::format("rank {} is lost: {}; {}", rank, cause, kLostRankRemedy)};
}

}  // namespace scalecom
