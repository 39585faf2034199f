// Items of the steady state that say what cannot be: each ends the session, and names its sender.
#include "runtime/negotiation/agreement_writer.hpp"
#include "runtime/negotiation/messages.hpp"
#include "tests/sim/scheduled_pair.hpp"

using namespace scalecom;
using namespace scalecom::negotiation;
using namespace scalecom::sim;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

template <class Item>
Writer item(Item kind, std::initializer_list<std::uint64_t> numbers) {
  Writer writer;
  writer.put_enum(kind);
  for (const std::uint64_t number : numbers) writer.put_varint(number);
  return writer;
}

Writer item_with_text(auto kind) {
  Writer writer = item(kind, {});
  writer.put_string("for a reason");
  return writer;
}

std::string end_of(Negotiation& node) {
  for (const NegotiationEvent& event : node.take_events()) {
    if (const auto* end = std::get_if<SessionEnd>(&event)) {
      CHECK(end->status.code() == StatusCode::internal);
      return end->status.message();
    }
  }
  return "no end";
}

/// What the leaf makes of an item from rank 0.
std::string end_by_stream(ScheduledPair& pair, const Writer& item) {
  Writer message;
  message.put_varint(static_cast<std::uint64_t>(pair.frames_down + 1));
  message.put_bytes(item.bytes());
  pair.leaf.receive(0, message.bytes(), pair.now);
  return end_of(pair.leaf);
}

/// What rank 0 makes of an item from the leaf.
std::string end_by_request(ScheduledPair& pair, const Writer& item) {
  Writer message;
  message.put_varint(static_cast<std::uint64_t>(pair.frames_up + 1));
  message.put_varint(0);
  message.put_bytes(item.bytes());
  pair.root.receive(1, message.bytes(), pair.now);
  return end_of(pair.root);
}

/// Both ranks have left the schedule; agreement 9 was void or not taken at all.
void leave(ScheduledPair& pair) {
  pair.root.submit({"x", all_reduce()}, pair.now);
  pair.send_down();
  pair.exchange();
  pair.leaf.take_events();
  pair.root.take_events();
}

/// A schedule from agreement 9 on, with the given cache numbers in one agreement each.
Writer schedule_of(std::initializer_list<std::int32_t> numbers) {
  Writer writer = item(DownItem::schedule, {9, 1000, numbers.size()});
  for (const std::int32_t number : numbers) {
    AgreementWriter agreement(writer);
    agreement.add_cached(number, std::nullopt);
    agreement.finish();
  }
  return writer;
}

}  // namespace

TEST_CASE("a schedule that cannot be is refused") {
  ScheduledPair pair;
  leave(pair);
  Writer full = item(DownItem::schedule, {9, 1000, 1});
  AgreementWriter agreement(full);
  agreement.add_full("a", false, 0);
  agreement.finish();
  struct Case {
    Writer item;
    const char* text;
  };
  const Case cases[] = {
      {item(DownItem::schedule, {8, 1000, 1, 0}), "from agreement 8 follows agreement 8"},
      {item(DownItem::schedule, {10, 1000, 1, 0}), "from agreement 10 follows agreement 8"},
      {item(DownItem::schedule, {9, 1'000'001, 1, 0}), "patience in us 1000001 is not below"},
      {item(DownItem::schedule, {9, 1000, 0}), "a schedule is empty"},
      {item(DownItem::schedule, {9, 1000, 1, 0}), "a scheduled agreement is empty"},
      {item(DownItem::schedule, {9, 1000, 100, 0}), "scheduled agreements 100, but 1 bytes"},
      {schedule_of({0, 0}), "tensor a is scheduled twice"},
      {schedule_of({2}), "cache number 2 is not one of 2"},
      {full, "more than cached tensors"},
  };
  for (const Case& one : cases) {
    ScheduledPair fresh;
    leave(fresh);
    CHECK_THAT(end_by_stream(fresh, one.item),
               Contains(one.text) && Contains("malformed control message from rank 0"));
  }
  CHECK(end_by_stream(pair, schedule_of({1, 0})) == "no end");
  CHECK(pair.leaf.steady_counters().leaves == 1);
}

TEST_CASE("a tensor whose operation does not wait for all ranks cannot be scheduled") {
  Negotiation root({.rank = 0, .size = 2, .cycle_time_ms = 0});
  Negotiation leaf({.rank = 1, .size = 2, .cycle_time_ms = 0});
  TensorSignature broadcast = all_reduce();
  broadcast.kind = OperationKind::broadcast;
  const TimePoint now{1000s};
  for (Negotiation* node : {&leaf, &root}) node->submit({"a", broadcast}, now);
  for (const auto& up : leaf.take_outgoing()) root.receive(1, up.message, now);
  for (const auto& down : root.take_outgoing()) leaf.receive(0, down.message, now);
  Writer message = item(DownItem::schedule, {2, 1000, 1});
  AgreementWriter agreement(message);
  agreement.add_cached(0, std::nullopt);
  agreement.finish();
  leaf.receive(0, "\x02" + message.bytes(), now);
  CHECK_THAT(end_of(leaf), Contains("tensor a is scheduled twice, or is not one that can be"));
}

TEST_CASE("what has no place in the stream beside a schedule is refused") {
  struct Case {
    Writer item;
    const char* text;
  };
  const Case while_steady[] = {
      {item(DownItem::agreement, {9, 0}), "orders tensors while a schedule does"},
      {item(DownItem::generation, {1}), "orders tensors while a schedule does"},
      {schedule_of({0, 1}), "orders tensors while a schedule does"},
      {item(DownItem::decision, {0, 0}), "a schedule that this node has not reported on"},
  };
  for (const Case& one : while_steady) {
    ScheduledPair pair;
    CHECK_THAT(end_by_stream(pair, one.item), Contains(one.text));
  }
  const Case without[] = {
      {item_with_text(DownItem::stop), "it stops a schedule, but none runs"},
      {item(DownItem::decision, {0, 0}), "a schedule that this node has not reported on"},
  };
  for (const Case& one : without) {
    ScheduledPair pair;
    leave(pair);
    CHECK_THAT(end_by_stream(pair, one.item), Contains(one.text));
  }
}

TEST_CASE("a decision that contradicts the leaf's own report is refused") {
  const Writer decisions[] = {item(DownItem::decision, {2, 0}), item(DownItem::decision, {0, 0}),
                              item(DownItem::decision, {1, 3}),
                              item(DownItem::decision, {0, ~std::uint64_t{0}})};
  for (const Writer& decision : decisions) {
    ScheduledPair pair;
    pair.leaf.submit({"a", all_reduce()}, pair.now);
    REQUIRE(pair.agreements() == 1);
    pair.root.submit({"x", all_reduce()}, pair.now);
    pair.send_down();
    pair.send_up();
    CHECK_THAT(end_by_stream(pair, decision), Contains("it decides on") && Contains("1 to 1"));
  }
}

TEST_CASE("a report or a leave that cannot be is refused") {
  SECTION("a report before the stop") {
    ScheduledPair pair;
    CHECK_THAT(end_by_request(pair, item(UpItem::report, {0, 0})),
               Contains("not stopped") && Contains("malformed control message from rank 1"));
  }
  SECTION("a leave without a schedule") {
    ScheduledPair pair;
    leave(pair);
    CHECK_THAT(end_by_request(pair, item_with_text(UpItem::leave)),
               Contains("it leaves a schedule, but none runs"));
  }
  SECTION("a report of more agreements than can be") {
    ScheduledPair pair;
    pair.root.submit({"x", all_reduce()}, pair.now);
    CHECK_THAT(end_by_request(pair, item(UpItem::report, {3, 0})),
               Contains("from a schedule of 2"));
  }
  SECTION("a request for a scheduled tensor after the report") {
    Negotiation root({.rank = 0, .size = 3, .cycle_time_ms = 0, .steady_steps = 1});
    const TimePoint now{1000s};
    for (int step = 0; step < 3; ++step) {
      root.set_backlog(0);
      root.submit({"a", all_reduce()}, now);
      for (const int rank : {1, 2}) {
        Writer request = item(static_cast<UpItem>(step + 1), {0});
        request.put_bytes(step == 0 ? "" : item(UpItem::cached_run, {0, 0}).bytes());
        if (step == 0) {
          Writer full = item(UpItem::full, {});
          full.put_string("a");
          write_signature(full, all_reduce());
          request.put_bytes(full.bytes());
        }
        root.receive(rank, request.bytes(), now);
      }
      root.take_outgoing();
      REQUIRE(root.take_events().size() == 1);
    }
    root.submit({"x", all_reduce()}, now);
    root.receive(1, item(UpItem(4), {0, 9, 0, 0}).bytes(), now);  // Its report.
    root.receive(1, item(UpItem(5), {0, 1, 0, 0}).bytes(), now);
    CHECK_THAT(end_of(root), Contains("tensor a of the schedule is asked for after the report"));
  }
}
