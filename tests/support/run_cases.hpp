#pragma once

namespace scalecom::test {

/// Runs the test cases that a command line chooses; returns the program's exit status. Catch2 2 is
/// compiled behind it, once for all test programs.
int run_cases(int argc, char** argv);

}  // namespace scalecom::test
