#include "runtime/settings.hpp"

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "runtime/launch.hpp"
#include "scalecom/status.hpp"
#include "tests/support/catch.hpp"

using namespace scalecom;
using Catch::Contains;

namespace {

// Sets a variable for one test.
class Variable {
 public:
  Variable(std::string name, const std::string& value) : name_(std::move(name)) {
    setenv(name_.c_str(), value.c_str(), 1);
  }
  ~Variable() { unsetenv(name_.c_str()); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  std::string name_;
};

// As outside of Slurm's shells and jobs.
void forget_slurm() {
  for (const std::string& name : environment_names()) {
    if (name.starts_with("SLURM_") || name.starts_with("MASTER_")) unsetenv(name.c_str());
  }
}

}  // namespace

TEST_CASE("without variables every setting is the struct's default, and says so") {
  const Config config = Config::from_environment();
  CHECK(config.fusion_threshold_bytes == 128LL << 20);
  CHECK(config.sources.empty());
  for (const SettingReport& setting : describe_settings(config)) {
    CHECK(setting.source == "default");
    CHECK(setting.value == setting.default_value);
    CHECK_FALSE(setting.allowed.empty());
    CHECK_FALSE(setting.description.empty());
  }
}

TEST_CASE("SCALECOM_X counts before HOROVOD_X, which counts before the default") {
  const Variable horovod("HOROVOD_FUSION_THRESHOLD", "1024");
  CHECK(Config::from_environment().fusion_threshold_bytes == 1024);
  CHECK(Config::from_environment().sources.at("FUSION_THRESHOLD") == "HOROVOD_FUSION_THRESHOLD");
  const Variable own("SCALECOM_FUSION_THRESHOLD", "2048");
  const Config config = Config::from_environment();
  CHECK(config.fusion_threshold_bytes == 2048);
  CHECK(config.sources.at("FUSION_THRESHOLD") == "SCALECOM_FUSION_THRESHOLD");
}

TEST_CASE("NCCL is offered a tuner, unless it has been told of one") {
  unsetenv("NCCL_TUNER_PLUGIN");
  offer_nccl_tuner("");
  CHECK(std::getenv("NCCL_TUNER_PLUGIN") == nullptr);
  offer_nccl_tuner("/lib/first.so");
  CHECK(std::getenv("NCCL_TUNER_PLUGIN") == std::string("/lib/first.so"));
  offer_nccl_tuner("/lib/second.so");
  CHECK(std::getenv("NCCL_TUNER_PLUGIN") == std::string("/lib/first.so"));
  unsetenv("NCCL_TUNER_PLUGIN");
}

TEST_CASE("each kind of setting is parsed") {
  const Variable cycle("SCALECOM_CYCLE_TIME", "2.5");
  const Variable stall("SCALECOM_STALL_CHECK_DISABLE", "true");
  const Variable algorithm("SCALECOM_ALLREDUCE_ALGORITHM", "ring");
  const Variable level("SCALECOM_LOG_LEVEL", "debug");
  const Config config = Config::from_environment();
  CHECK(config.cycle_time_ms == 2.5);
  CHECK(config.stall_check_disable);
  CHECK(config.allreduce_algorithm == "ring");
  CHECK(parse_log_level(config.log_level) == LogLevel::debug);
  const Variable adaptive("SCALECOM_CYCLE_TIME", "adaptive");
  CHECK(Config::from_environment().cycle_time_ms < 0);
}

TEST_CASE("words may be written in capitals, as horovodrun writes log levels") {
  const Variable level("HOROVOD_LOG_LEVEL", GENERATE("WARNING", "Warning", "warning"));
  const Variable algorithm("SCALECOM_ALLREDUCE_ALGORITHM", "Ring");
  const Variable tune("SCALECOM_TUNE", "OFF");
  const Variable stall("SCALECOM_STALL_CHECK_DISABLE", "True");
  const Variable cycle("SCALECOM_CYCLE_TIME", "ADAPTIVE");
  const Config config = Config::from_environment();
  CHECK(parse_log_level(config.log_level) == LogLevel::warning);
  CHECK(config.allreduce_algorithm == "ring");
  CHECK(config.tune == "off");
  CHECK(config.stall_check_disable);
  CHECK(config.cycle_time_ms < 0);
}

TEST_CASE("a value that is not allowed names the variable, the value and what is allowed") {
  const auto [variable, value, allowed] = GENERATE(table<std::string, std::string, std::string>(
      {{"SCALECOM_FUSION_THRESHOLD", "64MB", "0 to"},
       {"HOROVOD_FUSION_THRESHOLD", "-1", "0 to"},
       {"SCALECOM_CYCLE_TIME", "fast", "adaptive"},
       {"SCALECOM_CYCLE_TIME", "nan", "adaptive"},
       {"SCALECOM_CACHE_CAPACITY", "99999999999999999999", "0 to"},
       {"SCALECOM_STALL_CHECK_DISABLE", "yes", "true"},
       {"SCALECOM_ALLREDUCE_ALGORITHM", "star", "halving_doubling"},
       {"SCALECOM_LOG_LEVEL", "loud", "warning"},
       {"SCALECOM_PEER_TIMEOUT", "0", "1 to"},
       {"SCALECOM_TUNE", "bogus", "off, quick, full"},
       {"SCALECOM_AUTOTUNE", "maybe", "true"},
       {"SCALECOM_AUTOTUNE_STEPS_PER_SAMPLE", "0", "1 to"},
       {"SCALECOM_AUTOTUNE_BAYES_OPT_MAX_SAMPLES", "0", "1 to"},
       {"HOROVOD_AUTOTUNE_GAUSSIAN_PROCESS_NOISE", "1.5", "0 to 1"}}));
  const Variable set(variable, value);
  CHECK_THROWS_WITH(Config::from_environment(),
                    Contains(variable + "=" + value) && Contains(allowed));
}

TEST_CASE("a value that a program has given is held to the same table") {
  const auto refuses = [](const auto& set, const std::string& value, const std::string& allowed) {
    Config config;
    set(config);
    CHECK_THROWS_WITH(checked_config(config),
                      Contains("Config's SCALECOM_" + value + " is not allowed") &&
                          Contains("allowed: " + allowed));
  };
  refuses([](Config& config) { config.compress_threads = 0; }, "COMPRESS_THREADS=0", "1 to 256");
  refuses([](Config& config) { config.fusion_threshold_bytes = -1; }, "FUSION_THRESHOLD=-1",
          "0 to");
  refuses([](Config& config) { config.cycle_time_ms = std::nan(""); }, "CYCLE_TIME=nan",
          "adaptive");
  refuses([](Config& config) { config.mode = "bogus"; }, "MODE=bogus", "cyclic, sharded");
  refuses([](Config& config) { config.log_level = ""; }, "LOG_LEVEL=", "trace, debug");
  refuses([](Config& config) { config.rendezvous = "here"; }, "RENDEZVOUS=here", "host:port");
}

TEST_CASE("what a program has given is taken as it is, but for capitals") {
  CHECK_NOTHROW(checked_config(Config()));
  Config config;
  config.log_level = "INFO";
  config.cycle_time_ms = -7.0;
  config.collective_timeout_s = 0.123456789;
  config.rendezvous_key = "a secret";
  const Config checked = checked_config(config);
  CHECK(checked.log_level == "info");
  CHECK(checked.cycle_time_ms == config.cycle_time_ms);
  CHECK(checked.collective_timeout_s == config.collective_timeout_s);
  CHECK(checked.rendezvous_key == "a secret");
}

TEST_CASE("Horovod's variables without effect are checked, accepted and warned about") {
  const Variable threads("HOROVOD_THREAD_AFFINITY", "1,2");
  const auto warnings = settings_without_effect(Config::from_environment());
  REQUIRE(warnings.size() == 1);
  CHECK_THAT(warnings[0], Contains("HOROVOD_THREAD_AFFINITY") && Contains("no effect"));
}

TEST_CASE("a variable that is no setting is named, with the setting that it is near to") {
  const auto meant = [](const std::string& variable) {
    const auto warnings = misspelt_settings({"PATH", variable});
    return warnings.empty() ? std::string("none") : warnings.front();
  };
  CHECK_THAT(meant("SCALECOM_MDOE"),
             Contains("SCALECOM_MDOE is set") && Contains("SCALECOM_MODE is one"));
  CHECK_THAT(meant("HOROVOD_FUSION_TRESHOLD"), Contains("HOROVOD_FUSION_THRESHOLD is one"));
  CHECK_THAT(meant("HOROVOD_STALL_CHECK_TIME"),
             Contains("HOROVOD_STALL_CHECK_TIME_SECONDS is one"));
  CHECK_THAT(meant("SCALECOM_COMPRESSION"), Contains("no such setting; scalecom-info shows"));
  // Horovod's own, and scalecom's that are no settings.
  const std::string other =
      GENERATE("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE",
               "HOROVOD_HOSTNAME", "HOROVOD_GLOO_TIMEOUT_SECONDS", "HOROVOD_CPU_OPERATIONS",
               "HOROVOD_LOG_HIDE_TIME", "HOROVOD_ELASTIC", "HOROVOD_CCL_CACHE", "SCALECOM_ROOT",
               "SCALECOM_ELASTIC_SECRET", "SCALECOM_MODE", "HOROVOD_CYCLE_TIME", "SCALECOM");
  CHECK(meant(other) == "none");
}

TEST_CASE("settings that differ between ranks are named with their values and ranks") {
  Config one;
  Config two;
  two.fusion_threshold_bytes = 1024;
  CHECK(describe_disagreement({agreement_fingerprint(one), agreement_fingerprint(one)}).empty());
  CHECK_THAT(describe_disagreement({agreement_fingerprint(one), agreement_fingerprint(two),
                                    agreement_fingerprint(one)}),
             Contains("SCALECOM_FUSION_THRESHOLD") && Contains("1024 on rank 1") &&
                 Contains("134217728 on rank 0, 2"));
  two = one;
  two.log_level = "debug";
  CHECK(agreement_fingerprint(one) == agreement_fingerprint(two));
}

TEST_CASE("the cache is XDG's folder, else the home's, and a relative path is none") {
  const Variable home("HOME", "/home/user");
  for (const char* path : {"", "cache"}) {
    const Variable no_path("XDG_CACHE_HOME", path);
    CHECK(Config::from_environment().cache_directory == "/home/user/.cache/scalecom");
  }
  const Variable cache("XDG_CACHE_HOME", "/cache");
  CHECK(Config::from_environment().cache_directory == "/cache/scalecom");
}

TEST_CASE("the launcher is known by its variable, which may tell how many ranks it started") {
  CHECK_FALSE(find_mpi_launch());
  {
    const Variable launched("PMIX_RANK", "1");
    CHECK(find_mpi_launch().variable == "PMIX_RANK");
    CHECK(find_mpi_launch().ranks == 0);
  }
  const Variable launched("OMPI_COMM_WORLD_SIZE", "4");
  CHECK(find_mpi_launch().variable == "OMPI_COMM_WORLD_SIZE");
  CHECK(find_mpi_launch().ranks == 4);
}

TEST_CASE("srun tells how many ranks of PMIx it started, and not in a batch script") {
  forget_slurm();
  const Variable launched("PMIX_RANK", "1");
  const Variable of_allocation("SLURM_NTASKS", "4");
  CHECK(find_mpi_launch().ranks == 0);
  const Variable of_step("SLURM_STEP_NUM_TASKS", "4");
  const Variable by_srun("PMIX_NAMESPACE", "slurm.pmix.7.0");
  CHECK(find_mpi_launch().ranks == 4);
  const Variable by_prun("PMIX_NAMESPACE", "prterun-node1-12@1");
  CHECK(find_mpi_launch().ranks == 0);
}

TEST_CASE("a step of srun's says who a process is, and that ranks meet on its first host") {
  forget_slurm();
  const Variable of_allocation("SLURM_NTASKS", "4");
  {
    const Variable rank("SLURM_PROCID", "0");
    CHECK_FALSE(find_slurm_launch());  // A batch script is alone.
  }
  {
    const Variable alone("SLURM_PROCID", "0");
    const Variable one("SLURM_STEP_NUM_TASKS", "1");
    const Variable interactive("SLURM_STEP_ID", "4294967290");
    CHECK(find_slurm_launch()->size == 1);
    CHECK(find_slurm_launch()->rank == 0);
  }
  const Variable rank("SLURM_PROCID", "1");
  const Variable size("SLURM_STEP_NUM_TASKS", "4");
  const Variable job("SLURM_JOB_ID", "7");
  const Variable step("SLURM_STEP_ID", "2");
  const auto master_of = [](const char* hosts) {
    const Variable list("SLURM_STEP_NODELIST", hosts);
    return find_slurm_launch()->master_address;
  };
  CHECK(master_of("node1") == "node1");
  CHECK(master_of("node[07-12,15],other") == "node07");
  CHECK(master_of("node[3,5]-ib,a[1-2]") == "node3-ib");
  CHECK(master_of("rack[2-3]n[01-04]") == "rack2n01");
  CHECK(master_of("one,two[1-2]") == "one");
  CHECK(master_of("broken[1") == "broken1");
  CHECK(master_of("[") == "");
  CHECK(find_slurm_launch()->rank == 1);
  CHECK(find_slurm_launch()->size == 4);
  CHECK_THAT(find_slurm_launch()->advice, Contains("srun's step has 4 tasks; a process that"));
  CHECK(find_slurm_launch()->attempt == "7.2");
  CHECK(find_slurm_launch()->master_port == 10009);
  CHECK(find_slurm_launch()->hosts == HostSpread::several);
  {
    // Rank 0 may be anywhere.
    const auto [variable, value] =
        GENERATE(table<std::string, std::string>({{"SLURM_DISTRIBUTION", "arbitrary"},
                                                  {"SLURM_DISTRIBUTION", "arbitrary,nopack"},
                                                  {"SLURM_HET_SIZE", "2"}}));
    const Variable apart(variable, value);
    CHECK(master_of("node[1-2]") == "");
    const Variable nodes("SLURM_STEP_NUM_NODES", "1");
    CHECK(find_slurm_launch()->hosts == HostSpread::one);
    CHECK(master_of("node1") == "node1");
  }
  const Variable address("MASTER_ADDR", "host");
  const Variable port("MASTER_PORT", "29500");
  CHECK(master_of("node1") == "host");
  CHECK(find_slurm_launch()->master_port == 29500);
  const Variable other("SLURM_PROCID", "4");
  CHECK_THROWS_WITH(find_slurm_launch(),
                    Contains("SLURM_PROCID=4 is not allowed; allowed: 0 to 3"));
}

TEST_CASE("a job's number may take 32 bits, and so does that of an interactive step") {
  forget_slurm();
  const Variable rank("SLURM_PROCID", "0");
  const Variable size("SLURM_STEP_NUM_TASKS", "2");
  const Variable job("SLURM_JOB_ID", "3000000001");
  const Variable step("SLURM_STEP_ID", "4294967290");
  CHECK(find_slurm_launch()->attempt == "3000000001.4294967290");
  CHECK(find_slurm_launch()->master_port == 10000 + 7291);
}

TEST_CASE("a WORLD_SIZE without a RANK is srun's where it is the size of its step") {
  forget_slurm();
  const Variable size("WORLD_SIZE", "4");
  const Variable rank("SLURM_PROCID", "3");
  CHECK_THROWS_WITH(find_rank_launch(), Contains("WORLD_SIZE is set and RANK is not"));
  {
    const Variable other("SLURM_STEP_NUM_TASKS", "2");
    CHECK_THROWS_WITH(find_rank_launch(), Contains("WORLD_SIZE is set and RANK is not"));
  }
  const Variable step("SLURM_STEP_NUM_TASKS", "4");
  CHECK_FALSE(find_rank_launch());
  CHECK(find_slurm_launch()->rank == 3);
  const Variable own("RANK", "1");
  CHECK(find_rank_launch()->rank == 1);
}

TEST_CASE("an MPI launcher that started torchrun is not the one that started its ranks") {
  const Variable launched("OMPI_COMM_WORLD_SIZE", "4");
  const Variable by_torchrun("TORCHELASTIC_RUN_ID", "none");
  CHECK_FALSE(find_mpi_launch());
}

TEST_CASE("RANK and WORLD_SIZE say who a process is, both or neither, and within each other") {
  CHECK_FALSE(find_rank_launch());
  const auto problem_of = [](const char* rank, const char* size) -> std::string {
    const Variable rank_variable("RANK", rank);
    const Variable size_variable("WORLD_SIZE", size);
    try {
      find_rank_launch();
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  };
  CHECK_THAT(problem_of("0", ""), Contains("RANK is set and WORLD_SIZE is not"));
  CHECK_THAT(problem_of("", "2"), Contains("WORLD_SIZE is set and RANK is not"));
  CHECK(problem_of("2", "2") == "RANK=2 is not allowed; allowed: 0 to 1");
  CHECK(problem_of("-1", "2") == "RANK=-1 is not allowed; allowed: 0 to 1");
  CHECK(problem_of("one", "2") == "RANK=one is not allowed; allowed: 0 to 1");
  CHECK_THAT(problem_of("0", "0"), Contains("WORLD_SIZE=0 is not allowed"));
  CHECK_THAT(problem_of("0", "2x"), Contains("WORLD_SIZE=2x is not allowed"));
  CHECK(problem_of("1", "2") == "none");
}

TEST_CASE("torchrun's variables say where the ranks are and which start it is") {
  const Variable rank("RANK", "1");
  const Variable size("WORLD_SIZE", "2");
  const Variable address("MASTER_ADDR", "host");
  {
    const Variable port("MASTER_PORT", "http");
    CHECK_THROWS_WITH(find_rank_launch(), Contains("MASTER_PORT=http is not allowed"));
  }
  const Variable port("MASTER_PORT", "29500");
  CHECK(find_rank_launch()->hosts == HostSpread::unknown);
  {
    const Variable some("LOCAL_WORLD_SIZE", "1");
    CHECK(find_rank_launch()->hosts == HostSpread::several);
  }
  CHECK(find_rank_launch()->attempt.empty());
  const Variable local_size("LOCAL_WORLD_SIZE", "2");
  const Variable run("TORCHELASTIC_RUN_ID", "seven");
  const Variable restarts("TORCHELASTIC_RESTART_COUNT", "3");
  const auto launch = find_rank_launch();
  CHECK(launch->rank == 1);
  CHECK(launch->size == 2);
  CHECK(launch->master_address == "host");
  CHECK(launch->master_port == 29500);
  CHECK(launch->hosts == HostSpread::one);
  CHECK(launch->attempt == "seven/3");
}

TEST_CASE("a meeting place is host and port, and the key is never shown") {
  {
    const Variable place("SCALECOM_RENDEZVOUS",
                         GENERATE("host", "host:", ":1", "host:0", "h:x", "::1:4000", "[::1:4000"));
    CHECK_THROWS_WITH(Config::from_environment(),
                      Contains("host:port") && Contains("IPv6 address in brackets"));
  }
  const Variable place("SCALECOM_RENDEZVOUS", "host:4000");
  const Variable key("SCALECOM_RENDEZVOUS_KEY", "secret");
  const Config config = Config::from_environment();
  CHECK(config.rendezvous == "host:4000");
  CHECK(config.rendezvous_key == "secret");
  for (const SettingReport& setting : describe_settings(config)) {
    CHECK(setting.value.find("secret") == std::string::npos);
  }
  CHECK(agreement_fingerprint(config).find("secret") == std::string::npos);
}

TEST_CASE("docs/configuration.md is the table") {
  std::ifstream file(SCALECOM_CONFIGURATION_PAGE);
  std::ostringstream page;
  page << file.rdbuf();
  INFO("write it anew: scalecom-info --settings-markdown > docs/configuration.md");
  CHECK(page.str() == settings_markdown());
}
