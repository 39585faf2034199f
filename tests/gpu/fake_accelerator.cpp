// The same tests on the fake accelerator.
#include "tests/support/fake_accelerator.hpp"

#include "tests/gpu/accelerators.hpp"

namespace scalecom::test {

std::unique_ptr<Accelerator> make_accelerator() { return std::make_unique<FakeAccelerator>(1); }

}  // namespace scalecom::test
