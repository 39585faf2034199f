// The functions of the C interface for process sets.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/c/calls.hpp"
#include "scalecom/c_api.h"

using scalecom::Error;
using scalecom::StatusCode;
using scalecom::c::check_list;
using scalecom::c::deref;
using scalecom::c::guarded;
using scalecom::c::sessions;

struct scalecom_exchanged {
  std::vector<std::optional<std::string>> texts;  ///< by place; nothing: not put
};

namespace {

// An exchange of the C interface as a session calls it, between `count` ranks.
scalecom::Session::Exchange to_exchange(scalecom_exchange exchange, void* context, int32_t count) {
  return [=](const std::string& mine, double limit_s) {
    scalecom_exchanged all;
    all.texts.resize(static_cast<std::size_t>(count));
    if (exchange(context, mine.data(), static_cast<int64_t>(mine.size()), limit_s, &all) != 0) {
      throw Error(StatusCode::timed_out, "the ranks of a process set have not met");
    }
    std::vector<std::string> texts;
    for (std::optional<std::string>& text : all.texts) {
      if (!text) {
        throw Error(StatusCode::invalid_argument,
                    "the exchange has not put what place " + std::to_string(texts.size()) +
                        " gave; call scalecom_exchanged_put() for each of " +
                        std::to_string(count) + " places, also where it gave 0 bytes");
      }
      texts.push_back(*std::move(text));
    }
    return texts;
  };
}

}  // namespace

int scalecom_process_set_add(const int32_t* ranks, int32_t count, int32_t* id) {
  return guarded([&] {
    check_list(count, ranks == nullptr, "ranks");
    int32_t& place = deref(id, "id");  // Before there is a set that nobody has the number of.
    place = sessions().add_set(std::vector<int>(ranks, ranks + count));
  });
}

int scalecom_process_set_remove(int32_t id) {
  return guarded([&] { sessions().remove_set(id); });
}

int scalecom_exchanged_put(scalecom_exchanged* all, int32_t place, const void* bytes,
                           int64_t count) {
  return guarded([&] {
    auto& texts = deref(all, "all").texts;
    check_list(count, bytes == nullptr, "bytes");
    if (place < 0 || static_cast<std::size_t>(place) >= texts.size()) {
      throw Error(StatusCode::invalid_argument, "place is " + std::to_string(place) +
                                                    "; allowed are 0 to " +
                                                    std::to_string(texts.size() - 1));
    }
    const auto* first = static_cast<const char*>(bytes);
    texts[static_cast<std::size_t>(place)].emplace(first, first + count);
  });
}

int scalecom_process_set_connect(const int32_t* ranks, int32_t count, scalecom_exchange exchange,
                                 void* context, int32_t* id) {
  return guarded([&] {
    if (count < 1 || ranks == nullptr || exchange == nullptr) {
      throw Error(StatusCode::invalid_argument,
                  "ranks or exchange is NULL or count is " + std::to_string(count));
    }
    int32_t& place = deref(id, "id");
    place = sessions().connect_set(std::vector<int>(ranks, ranks + count),
                                   to_exchange(exchange, context, count));
  });
}

int scalecom_process_set_leave(int32_t id) {
  return guarded([&] { sessions().leave_set(id); });
}

int scalecom_process_set_use(int32_t id) {
  return guarded([&] { sessions().use_set(id); });
}
