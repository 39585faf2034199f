#include "runtime/launch.hpp"

#include <fmt/format.h>

#include <optional>

#include "runtime/settings.hpp"
#include "scalecom/status.hpp"
#include "transport/socket/address.hpp"

namespace scalecom {
namespace {

// MASTER_PORT itself belongs to torch: to torchrun's agent, or to rank 0's own process group.
constexpr int kPortsTried = 16;
constexpr int kPortMin = 1024;
constexpr int kPortMax = 65535;

std::vector<int> ports_behind(int port) {
  std::vector<int> ports;
  for (int step = 1; step <= kPortsTried; ++step) {
    const int next = port + step;
    ports.push_back(next <= kPortMax ? next : kPortMin + next - kPortMax - 1);
  }
  return ports;
}

}  // namespace

Rendezvous plan_rendezvous(const RankLaunch& launch, const Config& config) {
  Rendezvous rendezvous;
  rendezvous.rank = launch.rank;
  rendezvous.size = launch.size;
  rendezvous.secret = config.rendezvous_key;
  rendezvous.hosts = launch.hosts;
  rendezvous.advice = launch.advice;
  if (!config.rendezvous.empty()) {
    const std::optional<Place> place = parse_place(config.rendezvous);
    if (!place) {
      throw Error(StatusCode::invalid_argument,
                  fmt::format("{}={} is not allowed; allowed: host:port, and [IPv6 address]:port",
                              variable_of(config, "RENDEZVOUS"), config.rendezvous));
    }
    rendezvous.host_setting = variable_of(config, "RENDEZVOUS");
    rendezvous.host = parse_host(place->host, rendezvous.host_setting);
    rendezvous.ports = {place->port};
    rendezvous.job = fmt::format("port {}", place->port);
  } else {
    if (launch.master_address.empty() || launch.master_port == 0) {
      throw Error(StatusCode::invalid_argument,
                  fmt::format("{} is not set, so that ranks by {} do not know where to meet; set "
                              "MASTER_ADDR and MASTER_PORT as torchrun does, or "
                              "SCALECOM_RENDEZVOUS=host:port",
                              launch.master_address.empty() ? "MASTER_ADDR" : "MASTER_PORT",
                              launch.launcher));
    }
    rendezvous.host = parse_host(launch.master_address, rendezvous.host_setting);
    rendezvous.ports = ports_behind(launch.master_port);
    rendezvous.job = fmt::format("MASTER_PORT {}", launch.master_port);
  }
  if (!launch.attempt.empty()) rendezvous.job += ", run " + launch.attempt;
  return rendezvous;
}

}  // namespace scalecom
