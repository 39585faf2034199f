// The same tests on the fake accelerator.
#define CATCH_CONFIG_RUNNER
#include "tests/gpu/accelerators.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/fake_accelerator.hpp"

namespace scalecom::test {

std::unique_ptr<Accelerator> make_accelerator() { return std::make_unique<FakeAccelerator>(1); }

}  // namespace scalecom::test

int main(int argc, char** argv) { return Catch::Session().run(argc, argv); }
