#pragma once

#include <string>
#include <vector>

namespace scalecom {

/// How the ranks of a job first hear of each other: a trusted, slow, blocking exchange.
class Bootstrap {
 public:
  virtual ~Bootstrap() = default;
  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  /// Every rank gives a blob (any size) and gets everyone's, in rank order.
  virtual std::vector<std::string> exchange(const std::string& mine) = 0;
};

}  // namespace scalecom
