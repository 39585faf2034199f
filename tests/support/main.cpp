// Taken from the library by test programs that have no main() of their own.
#include "tests/support/run_cases.hpp"

int main(int argc, char** argv) { return scalecom::test::run_cases(argc, argv); }
