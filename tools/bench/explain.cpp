#include <cstdio>

#include "tools/bench/bench.hpp"

namespace scalecom::bench {
namespace {

nlohmann::json to_json(const AllReduceExplanation& explanation) {
  nlohmann::json object = {
      {"bytes", explanation.bytes},          {"level", explanation.level},
      {"algorithm", explanation.algorithm},  {"block_bytes", explanation.block_bytes},
      {"blocks", explanation.blocks},        {"blocks_under_way", explanation.blocks_under_way},
      {"model_us", nlohmann::json::object()}};
  for (const auto& alternative : explanation.alternatives) {
    object["model_us"][alternative.name] = alternative.time_us;
  }
  return object;
}

void print(const AllReduceExplanation& explanation) {
  std::printf("%12lld  %-15s  %-18s  %10lld  %7lld  %5lld ",
              static_cast<long long>(explanation.bytes), explanation.level.c_str(),
              explanation.algorithm.c_str(), static_cast<long long>(explanation.block_bytes),
              static_cast<long long>(explanation.blocks),
              static_cast<long long>(explanation.blocks_under_way));
  for (const auto& alternative : explanation.alternatives) {
    std::printf(" %s%s %.1f", alternative.is_chosen ? "*" : "", alternative.name.c_str(),
                alternative.time_us);
  }
  std::printf("\n");
}

}  // namespace

nlohmann::json run_explain(Session& session, const std::vector<std::int64_t>& sizes) {
  const bool is_root = session.topology().rank == 0;
  const SessionReport report = session.report();
  if (is_root) {
    std::printf("# all-reduce on %d ranks; figures: %s\n# %s\n", session.topology().size,
                report.tuning_source.c_str(), report.tuning.c_str());
    std::printf("# inside a host flat is taken up to flat_bytes_max, whatever the model says\n");
    std::printf("%12s  %-15s  %-18s  %10s  %7s  %5s  %s\n", "bytes", "level", "algorithm", "block",
                "blocks", "ahead", "us by the cost model (* chosen)");
  }
  nlohmann::json explained = nlohmann::json::array();
  for (const std::int64_t bytes : sizes) {
    const AllReduceExplanation explanation = session.explain_all_reduce(bytes);
    if (is_root) print(explanation);
    explained.push_back(to_json(explanation));
  }
  return {{"source", report.tuning_source},
          {"figures", nlohmann::json::parse(report.tuning)},
          {"sizes", std::move(explained)}};
}

}  // namespace scalecom::bench
