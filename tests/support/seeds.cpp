#include "tests/support/seeds.hpp"

namespace scalecom::test {

unsigned seeds_of(unsigned count) { return SCALECOM_IS_SANITIZED ? (count + 3) / 4 : count; }

}  // namespace scalecom::test
