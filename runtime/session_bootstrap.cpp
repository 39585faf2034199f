#include "runtime/session_bootstrap.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/error.hpp"
#include "runtime/control/frames.hpp"

namespace scalecom {
namespace {

// A report of a stall gives the words in the brackets.
constexpr const char* kName = "allgather.scalecom[connections of a new process set]";
// What a rank says in a round: a blob to exchange, or that it has ended, and how.
constexpr char kExchanges = 'x';
constexpr char kHasEnded = 'e';

bool has_ended(const std::string& said) { return said.front() == kHasEnded; }

// Of those that have ended the first failure, or Ok.
Status first_end(const std::vector<std::string>& said) {
  for (const std::string& text : said) {
    const Status status = has_ended(text) ? status_of(text.substr(1)) : Status();
    if (!status.is_ok()) return status;
  }
  return {};
}

TensorView bytes_view(std::string& text) {
  return {text.data(), DataType::uint8, {static_cast<std::int64_t>(text.size())}, {}};
}

}  // namespace

int place_of(int rank, const std::vector<int>& ranks) {
  const auto found = std::ranges::find(ranks, rank);
  return found == ranks.end() ? -1 : static_cast<int>(found - ranks.begin());
}

SessionBootstrap::SessionBootstrap(Session& session, std::vector<int> ranks)
    : session_(session),
      ranks_(std::move(ranks)),
      place_(place_of(session.topology().rank, ranks_)) {
  const std::vector<std::string> all = gather(fmt::format("{}", fmt::join(ranks_, ", ")));
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank] == all.front()) continue;
    throw Error(StatusCode::invalid_argument,
                fmt::format("the ranks of the process set differ: [{}] on rank 0, [{}] on rank {}; "
                            "add the same process sets in the same order on every rank",
                            all.front(), all[rank], rank));
  }
}

// Everyone's text, by rank of the session.
std::vector<std::string> SessionBootstrap::gather(const std::string& mine) {
  std::string input;
  append_frame(input, mine);
  const Ticket ticket = session_.all_gather(kName, bytes_view(input));
  if (const Status status = ticket.wait(); !status.is_ok()) throw Error(status);
  const TensorView output = ticket.output();
  std::string_view bytes(static_cast<const char*>(output.data),
                         static_cast<std::size_t>(output.bytes()));
  std::vector<std::string> all;
  for (int rank = 0; rank < session_.topology().size; ++rank) {
    if (bytes.empty()) {
      throw Error(StatusCode::invalid_argument,
                  "a process set is made by all ranks, but one has joined; make it before join(), "
                  "or behind it");
    }
    all.push_back(take_frame(bytes));
  }
  return all;
}

// What those in the set say when this rank says that.
std::vector<std::string> SessionBootstrap::take_round(const std::string& mine) {
  const std::vector<std::string> all = gather(mine);
  std::vector<std::string> said;
  for (const int rank : ranks_) said.push_back(all[static_cast<std::size_t>(rank)]);
  return said;
}

std::vector<std::string> SessionBootstrap::exchange_in_step(const std::string& mine,
                                                            Limit /*limit*/) {
  std::vector<std::string> blobs = take_round(kExchanges + mine);
  if (const Status failure = first_end(blobs); !failure.is_ok()) throw Error(failure);
  for (std::string& text : blobs) {
    SCALECOM_ASSERT(text.front() == kExchanges, "a rank has left a meeting that goes on");
    text.erase(0, 1);
  }
  return blobs;
}

Status SessionBootstrap::finish(const Status& mine) {
  for (;;) {
    const std::vector<std::string> said = take_round(kHasEnded + to_blob(mine));
    if (std::ranges::all_of(said, has_ended)) return first_end(said);
  }
}

}  // namespace scalecom
