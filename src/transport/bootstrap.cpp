#include "transport/bootstrap.hpp"

#include <fmt/format.h>

namespace scalecom {

Error ranks_missing(int ranks, Bootstrap::Limit limit) {
  const std::string all = ranks > 0 ? fmt::format("all {} ranks", ranks) : "all ranks";
  return {StatusCode::timed_out,
          fmt::format("not {} that the launcher started came to init() within {:g} s; each of its "
                      "processes has to call init(): look for one that never does, is still busy "
                      "before it, stopped or lost. If one only comes later, raise "
                      "SCALECOM_CONNECT_TIMEOUT",
                      all, limit.count())};
}

}  // namespace scalecom
