// Sessions that measure, keep and find their figures again. The argument is a folder of the test's
// own for the cache. Exits with 0 when all of it held.

#include <mpi.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "scalecom/scalecom.hpp"

namespace {

using scalecom::Config;
using scalecom::Session;
using scalecom::SessionReport;

bool holds(bool claim, const std::string& what) {
  if (!claim) std::printf("does not hold: %s\n", what.c_str());
  return claim;
}

// Rank 0's text on every rank.
std::string of_rank_0(std::string text) {
  int size = static_cast<int>(text.size());
  MPI_Bcast(&size, 1, MPI_INT, 0, MPI_COMM_WORLD);
  text.resize(static_cast<std::size_t>(size));
  MPI_Bcast(text.data(), size, MPI_CHAR, 0, MPI_COMM_WORLD);
  return text;
}

std::string choices_of(const Session& session) {
  std::string choices;
  for (std::int64_t bytes = 1; bytes <= 1 << 28; bytes *= 4) {
    const auto explanation = session.explain_all_reduce(bytes);
    choices += explanation.level + " " + explanation.algorithm + " " +
               std::to_string(explanation.block_bytes) + " " + std::to_string(explanation.blocks);
    int chosen = 0;
    for (const auto& alternative : explanation.alternatives) {
      choices += " " + alternative.name + " " + std::to_string(alternative.time_us);
      chosen += alternative.is_chosen ? 1 : 0;
    }
    choices += chosen == 1 ? "\n" : " but no single choice\n";
  }
  return choices;
}

bool sums(Session& session) {
  std::vector<float> values(300'000, 1.0f);
  const scalecom::TensorView view{
      values.data(), scalecom::DataType::float32, {static_cast<std::int64_t>(values.size())}, {}};
  scalecom::AllReduceOptions options;
  options.op = scalecom::ReduceOp::sum;
  const scalecom::Status status = session.all_reduce("values", view, view, options).wait();
  return holds(status.is_ok(), status.message()) &&
         holds(values.front() == static_cast<float>(session.topology().size) &&
                   values.back() == values.front(),
               "the sum is the number of ranks");
}

struct Run {
  SessionReport report;
  bool is_good = false;
};

// One session, whose tuning and choices have to be rank 0's.
Run run_session(const Config& config) {
  const auto session = Session::connect(config);
  Run run{session->report(), sums(*session)};
  session->barrier().wait();
  session->shutdown();
  const std::string choices = choices_of(*session);
  run.is_good =
      holds(of_rank_0(run.report.tuning) == run.report.tuning, "one tuning") &&
      holds(of_rank_0(run.report.tuning_source) == run.report.tuning_source, "one source") &&
      holds(of_rank_0(choices) == choices, "one choice") &&
      holds(choices.find("no single") == std::string::npos, choices) && run.is_good;
  return run;
}

bool starts_with(const std::string& text, const std::string& start) {
  return text.rfind(start, 0) == 0;
}

bool all_holds(Config config, bool is_first) {
  config.tune = "off";
  const Run fixed = run_session(config);
  config.tune = "quick";
  const Run measured = run_session(config);
  const Run found = run_session(config);
  if (is_first) {
    const std::string path = found.report.tuning_source.substr(std::string("file ").size());
    std::ofstream(path) << "{";
  }
  MPI_Barrier(MPI_COMM_WORLD);
  const Run repaired = run_session(config);
  const Run found_again = run_session(config);
  return fixed.is_good && measured.is_good && found.is_good && repaired.is_good &&
         found_again.is_good && holds(fixed.report.tuning_source == "defaults", "off: defaults") &&
         holds(measured.report.tuning_source == "measured now", "no file: measured") &&
         holds(starts_with(found.report.tuning_source, "file " + config.cache_directory),
               "the second session reads the file") &&
         holds(found.report.tuning == measured.report.tuning, "the file holds what was measured") &&
         holds(fixed.report.tuning != measured.report.tuning, "something was measured") &&
         holds(repaired.report.tuning_source == "measured now", "a broken file: measured") &&
         holds(found_again.report.tuning == repaired.report.tuning, "the file is written anew");
}

}  // namespace

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  bool is_good = argc == 2;
  try {
    Config config = Config::from_environment();
    config.cache_directory = argv[1];
    if (rank == 0) std::filesystem::remove_all(config.cache_directory);
    MPI_Barrier(MPI_COMM_WORLD);
    is_good = is_good && all_holds(config, rank == 0);
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return is_good ? 0 : 1;
}
