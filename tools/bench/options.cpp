#include "tools/bench/options.hpp"

#include <CLI/CLI.hpp>
#include <map>

#include "tools/allowed.hpp"

namespace scalecom::bench {
namespace {

const std::map<std::string, DataType> kTypes{
    {"int8", DataType::int8},     {"uint8", DataType::uint8},   {"int32", DataType::int32},
    {"int64", DataType::int64},   {"half", DataType::float16},  {"bfloat16", DataType::bfloat16},
    {"float", DataType::float32}, {"double", DataType::float64}};
const std::map<std::string, ReduceOp> kOps{{"sum", ReduceOp::sum},
                                           {"avg", ReduceOp::average},
                                           {"min", ReduceOp::min},
                                           {"max", ReduceOp::max},
                                           {"prod", ReduceOp::product}};
const std::map<std::string, CompressionMode> kModes{
    {"cyclic", CompressionMode::cyclic},
    {"sharded", CompressionMode::sharded},
    {"hierarchical", CompressionMode::hierarchical}};
const std::map<std::string, DataType> kValueTypes{
    {"float", DataType::float32}, {"half", DataType::float16}, {"bfloat16", DataType::bfloat16}};

void add_sizes(CLI::App& app, Options& options) {
  const CLI::AsSizeValue units(false);
  app.add_option("-b,--minbytes", options.min_bytes, "Smallest size, such as 8 or 64K")
      ->transform(units)
      ->check(tools::whole_from(1))
      ->capture_default_str();
  app.add_option("-e,--maxbytes", options.max_bytes, "Largest size")
      ->transform(units)
      ->check(tools::whole_from(1))
      ->default_str("16M");
  app.add_option("-i,--stepbytes", options.step_bytes,
                 "Step between sizes; without it, --stepfactor")
      ->transform(units)
      ->check(tools::whole_from(1));
  app.add_option("-f,--stepfactor", options.factor, "Factor between sizes")
      ->check(CLI::Range(1.01, 1e6))
      ->capture_default_str();
}

void add_modes(CLI::App& app, Options& options) {
  app.add_option("--latency", options.latency_calls,
                 "Instead: this many blocking calls on the smallest size, with percentiles")
      ->check(CLI::Range(1, 1'000'000'000));
  app.add_option("--burst", options.burst_tensors,
                 "Instead: this many tensors of --burst-bytes submitted together")
      ->check(CLI::Range(1, 1'000'000))
      ->excludes("--latency");
  app.add_option("--burst-bytes", options.burst_bytes, "Bytes of a burst's tensor")
      ->transform(CLI::AsSizeValue(false))
      ->check(tools::whole_from(1))
      ->default_str("16K");
  app.add_option("--idle", options.idle_s,
                 "Instead: CPU time that an idle session takes in S seconds")
      ->check(CLI::Range(0.001, 86400.0))
      ->excludes("--latency", "--burst");
  app.add_flag(
         "--peers", options.with_peers,
         "Instead: all-reduces of each size by scalecom and by MPI, in blocks that take turns")
      ->excludes("--latency", "--burst", "--idle");
  app.add_flag(
         "--explain", options.explains,
         "Instead: what the session chooses for an all-reduce of each size (1 KiB to 256 MiB) "
         "and what the alternatives would take by the cost model; nothing is timed")
      ->excludes("--latency", "--burst", "--idle", "--peers");
  app.add_option("--blocks", options.blocks, "--peers: blocks of calls for each library")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
}

// A session chooses for large sizes too, which take no time to explain.
void set_explained_sizes(const CLI::App& app, Options& options) {
  if (app.count("--minbytes") == 0) options.min_bytes = 1 << 10;
  if (app.count("--maxbytes") == 0) options.max_bytes = 256 << 20;
}

// What is not a table is of all-reduces, whatever operation is named.
void check_operation(const CLI::App& app, const Options& options) {
  if (options.operation == "all_reduce") return;
  for (const char* mode : {"--latency", "--burst", "--idle", "--peers", "--explain"}) {
    if (app.count(mode) == 0) continue;
    throw CLI::ValidationError(mode, "is for all_reduce alone, not " + options.operation);
  }
}

// What --peers cannot do is said before anything is connected.
void check_peers(const Options& options) {
  if (!options.with_peers) return;
  if (options.op == ReduceOp::average) {
    throw CLI::ValidationError("--peers",
                               "MPI has no average; allowed are -o sum, min, max and prod");
  }
  if (options.dtype == DataType::float16 || options.dtype == DataType::bfloat16) {
    throw CLI::ValidationError("--peers", std::string("MPI has no type for ") +
                                              to_string(options.dtype) +
                                              "; allowed are -d int8, uint8, int32, int64, float "
                                              "and double");
  }
}

// What would be measured otherwise than the table says, or not at all.
void check_sizes_and_types(const CLI::App& app, const Options& options) {
  if (options.min_bytes > options.max_bytes) {
    throw CLI::ValidationError("--minbytes", std::to_string(options.min_bytes) +
                                                 " is more than --maxbytes, " +
                                                 std::to_string(options.max_bytes));
  }
  if (options.operation == "scalecom" && options.dtype != DataType::float32) {
    throw CLI::ValidationError("--datatype",
                               "scalecom is timed on float; --values says what travels");
  }
  if (options.operation == "scalecom" && app.count("--op") > 0) {
    throw CLI::ValidationError("--op", "scalecom is timed as an average; leave it out");
  }
}

}  // namespace

Options parse_options(int argc, char** argv) {
  CLI::App app{
      "Times scalecom's operations from submit to completion. Run it under mpirun for several "
      "ranks."};
  Options options;
  app.add_option("operation,--operation", options.operation, "What to time")
      ->check(CLI::IsMember(
          {"all_reduce", "all_gather", "reduce_scatter", "alltoall", "broadcast", "scalecom"}))
      ->capture_default_str();
  add_sizes(app, options);
  app.add_option("-n,--iters", options.iterations, "Timed calls a size")
      ->check(CLI::Range(1, 1'000'000'000))
      ->capture_default_str();
  app.add_option("-w,--warmup_iters", options.warmup, "Calls before them")
      ->check(CLI::Range(0, 1'000'000'000))
      ->capture_default_str();
  app.add_option("-c,--check", options.check, "Check the results: 0 or 1")
      ->check(CLI::Range(0, 1))
      ->default_str("1");
  app.add_option("-d,--datatype", options.dtype, "Element type")
      ->transform(tools::one_of(kTypes))
      ->default_str("float");
  app.add_option("-o,--op", options.op, "Reduction")
      ->transform(tools::one_of(kOps))
      ->default_str("sum");
  app.add_option("-r,--root", options.root, "Root of a broadcast")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("-J,--json", options.json_path, "Write the results to this file, too");
  app.add_option("--rate", options.rate, "scalecom: elements in a chunk")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{65536}))
      ->capture_default_str();
  app.add_option("--beta", options.beta, "scalecom: the low-pass filter's discount")
      ->capture_default_str();
  app.add_option("--mode", options.mode, "scalecom: who selects; without it SCALECOM_MODE")
      ->transform(tools::one_of(kModes));
  app.add_option("--values", options.values, "scalecom: type of the values that travel")
      ->transform(tools::one_of(kValueTypes))
      ->default_str("float");
  add_modes(app, options);
  try {
    app.parse(argc, argv);
    check_operation(app, options);
    check_peers(options);
    if (options.explains) set_explained_sizes(app, options);
    check_sizes_and_types(app, options);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  return options;
}

}  // namespace scalecom::bench
