// The functions of the C interface for process sets.
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
  std::vector<std::string> texts;
};

int scalecom_process_set_add(const int32_t* ranks, int32_t count, int32_t* id) {
  return guarded([&] {
    check_list(count, ranks == nullptr, "ranks");
    deref(id, "id") = sessions().add_set(std::vector<int>(ranks, ranks + count));
  });
}

int scalecom_process_set_remove(int32_t id) {
  return guarded([&] { sessions().remove_set(id); });
}

int scalecom_exchanged_put(scalecom_exchanged* all, int32_t place, const void* bytes,
                           int64_t count) {
  return guarded([&] {
    std::vector<std::string>& texts = deref(all, "all").texts;
    if (place < 0 || static_cast<std::size_t>(place) >= texts.size() || count < 0) {
      throw Error(StatusCode::invalid_argument, "place is " + std::to_string(place) + " of " +
                                                    std::to_string(texts.size()) + ", count is " +
                                                    std::to_string(count));
    }
    texts[static_cast<std::size_t>(place)].assign(static_cast<const char*>(bytes),
                                                  static_cast<std::size_t>(count));
  });
}

int scalecom_process_set_connect(const int32_t* ranks, int32_t count, scalecom_exchange exchange,
                                 void* context, int32_t* id) {
  return guarded([&] {
    if (count < 1 || ranks == nullptr || exchange == nullptr) {
      throw Error(StatusCode::invalid_argument,
                  "ranks or exchange is NULL or count is " + std::to_string(count));
    }
    const auto call = [&](const std::string& mine, double limit_s) {
      scalecom_exchanged all{std::vector<std::string>(static_cast<std::size_t>(count))};
      if (exchange(context, mine.data(), static_cast<int64_t>(mine.size()), limit_s, &all) != 0) {
        throw Error(StatusCode::timed_out, "the ranks of a process set have not met");
      }
      return std::move(all.texts);
    };
    deref(id, "id") = sessions().connect_set(std::vector<int>(ranks, ranks + count), call);
  });
}

int scalecom_process_set_leave(int32_t id) {
  return guarded([&] { sessions().leave_set(id); });
}

int scalecom_process_set_use(int32_t id) {
  return guarded([&] { sessions().use_set(id); });
}
