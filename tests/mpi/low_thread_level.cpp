// A program that initialised MPI with too low a thread level gets an error that says so, and how to
// do better; exits with 0 when it did.

#include <mpi.h>

#include <cstdio>
#include <string>

#include "scalecom/scalecom.hpp"

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_SINGLE, &provided);
  int verdict = 1;
  try {
    scalecom::Session::connect(scalecom::Config::from_environment());
  } catch (const scalecom::Error& error) {
    const std::string message = error.what();
    const bool names_both = message.find("MPI_THREAD_SINGLE") != std::string::npos &&
                            message.find("MPI_Init_thread") != std::string::npos;
    verdict = error.code() == scalecom::StatusCode::unavailable && names_both ? 0 : 1;
    std::printf("%s\n", message.c_str());
  }
  MPI_Finalize();
  return verdict;
}
