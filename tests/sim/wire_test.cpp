#include "runtime/negotiation/wire.hpp"

#include <limits>

#include "scalecom/status.hpp"
#include "tests/sim/world.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/seeds.hpp"

using namespace scalecom;
using namespace scalecom::negotiation;
using sim::draw_below;
using namespace std::chrono_literals;
using Catch::Contains;

namespace {

TensorSignature make_signature() {
  TensorSignature signature;
  signature.kind = OperationKind::all_gather;
  signature.dtype = DataType::bfloat16;
  signature.op = ReduceOp::product;
  signature.device = DeviceKind::cuda;
  signature.root = 70'000;
  signature.prescale = -0.1;
  signature.postscale = std::numeric_limits<double>::infinity();
  signature.compression = {CompressionMode::sharded,
                           65'536,
                           0.3,
                           1'000'000'000'000,
                           DataType::float16,
                           0.875,
                           std::numeric_limits<std::int32_t>::max()};
  signature.first_step = std::numeric_limits<std::int64_t>::max();
  signature.priority = std::numeric_limits<std::int32_t>::min();
  signature.shape = {0, 1, std::numeric_limits<std::int64_t>::max()};
  return signature;
}

std::string write_everything() {
  Writer writer;
  writer.put_varint(std::numeric_limits<std::uint64_t>::max());
  writer.put_signed(std::numeric_limits<std::int64_t>::min());
  write_signature(writer, make_signature());
  write_status(writer, Status(StatusCode::rank_lost, "rank 3 is lost"));
  RankSet ranks({2, 5});
  ranks.add({7, 8});
  write_ranks(writer, ranks);
  write_extents(writer, std::vector<std::int64_t>{5, 5, 5, 9, 0});
  return writer.take();
}

struct Everything {
  std::uint64_t number = 0;
  std::int64_t signed_number = 0;
  TensorSignature signature;
  Status status;
  RankSet ranks;
  std::vector<std::int64_t> extents = std::vector<std::int64_t>(5);
};

Everything read_everything(std::string_view bytes) {
  Reader reader(bytes);
  Everything all;
  all.number = reader.get_varint();
  all.signed_number = reader.get_signed();
  all.signature = read_signature(reader);
  all.status = read_status(reader);
  all.ranks = read_ranks(reader, 0, 10);
  read_extents(reader, all.extents);
  if (!reader.is_at_end()) refuse_message("bytes are left");
  return all;
}

bool is_refused(std::string_view bytes) {
  try {
    read_everything(bytes);
    return false;
  } catch (const Error& error) {
    return error.code() == StatusCode::internal;
  }
}

}  // namespace

TEST_CASE("what is written is read back") {
  const std::string bytes = write_everything();
  const Everything all = read_everything(bytes);
  CHECK(all.number == std::numeric_limits<std::uint64_t>::max());
  CHECK(all.signed_number == std::numeric_limits<std::int64_t>::min());
  CHECK(all.signature == make_signature());
  CHECK(all.status == Status(StatusCode::rank_lost, "rank 3 is lost"));
  CHECK(describe(all.ranks) == "ranks 2-4 and 7");
  CHECK(all.extents == std::vector<std::int64_t>{5, 5, 5, 9, 0});
}

TEST_CASE("a message that is cut off anywhere is refused") {
  const std::string bytes = write_everything();
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    CAPTURE(length);
    CHECK(is_refused(std::string_view(bytes).substr(0, length)));
  }
}

TEST_CASE("values out of range are refused") {
  const auto refuses = [](auto write, auto read) {
    Writer writer;
    write(writer);
    Reader reader(writer.bytes());
    CHECK_THROWS_AS(read(reader), Error);
  };
  refuses([](Writer& w) { w.put_bytes(std::string(10, '\xff')); },
          [](Reader& r) { r.get_varint(); });
  refuses([](Writer& w) { w.put_varint(1u << 20); }, [](Reader& r) { r.get_string(); });
  refuses([](Writer& w) { w.put_varint(~0ull); }, [](Reader& r) { r.get_count("things"); });
  refuses(
      [](Writer& w) {
        TensorSignature signature = make_signature();
        signature.kind = static_cast<OperationKind>(6);
        write_signature(w, signature);
      },
      [](Reader& r) { read_signature(r); });
  refuses([](Writer& w) { w.put_varint(0); }, [](Reader& r) { read_status(r); });
  refuses(
      [](Writer& w) {
        write_ranks(w, RankSet({3, 9}));
      },
      [](Reader& r) { read_ranks(r, 4, 9); });
  refuses([](Writer& w) { write_ranks(w, RankSet()); }, [](Reader& r) { read_ranks(r, 0, 9); });
  refuses(
      [](Writer& w) {
        write_extents(w, std::vector<std::int64_t>{1, 1, 1});
      },
      [](Reader& r) {
        std::vector<std::int64_t> extents(2);
        read_extents(r, extents);
      });
}

TEST_CASE("random bytes and random changes never do more than end the session") {
  int ends = 0;
  for (const std::uint64_t seed : test::choose_seeds(3000)) {
    sim::Random random(seed);
    // A real message with a few bytes changed gets further than noise does.
    sim::WorldOptions options;
    options.size = 3 + draw_below(random, 30);
    options.seed = seed;
    options.negotiation.cache_capacity = 4;
    options.negotiation.steady_steps = 2;
    sim::World world(options);
    TensorSignature signature;
    signature.shape = {4};
    // Half of the worlds run a schedule, and a few of those are about to leave it.
    const bool is_steady = draw_below(random, 2) == 0;
    for (int step = 0; step < (is_steady ? 4 : 0); ++step) {
      for (int rank = 0; rank < world.size(); ++rank) {
        for (const char* name : {"a", "b", "c"}) world.submit(rank, name, signature);
      }
      world.run(10ms);
    }
    if (is_steady && draw_below(random, 4) == 0)
      world.submit(draw_below(random, world.size()), "other", signature);
    for (int rank = 0; rank < world.size(); ++rank) {
      TensorSignature own = signature;
      if (draw_below(random, 8) == 0) own.shape = {5};
      for (const char* name : {"a", "b", "c"}) world.submit(rank, name, own);
      if (draw_below(random, 4) > 0) world.submit(rank, "late", signature);
    }
    world.run(is_steady ? world.random_duration(300us) : 100ms);
    const int to = draw_below(random, world.size());
    const ControlTree& tree = world.tree(to);
    const bool is_down = tree.children.empty() || (tree.parent >= 0 && draw_below(random, 2) == 0);
    const int from = is_down ? tree.parent
                             : tree.children[static_cast<std::size_t>(
                                   draw_below(random, static_cast<int>(tree.children.size())))];
    std::string message;
    if (draw_below(random, 4) == 0) {
      for (int i = draw_below(random, 40); i >= 0; --i)
        message.push_back(static_cast<char>(draw_below(random, 256)));
    } else {
      // The next frame, generation 0, then items of small numbers and known names.
      message.push_back(static_cast<char>(world.traffic_between(from, to).messages + 1));
      if (!is_down) message.push_back(0);
      for (int i = draw_below(random, 30); i >= 0; --i) {
        message.push_back(static_cast<char>(draw_below(random, 3) > 0
                                                ? draw_below(random, 10)
                                                : "\x01"
                                                  "abc\xff"[draw_below(random, 5)]));
      }
    }
    world.inject(from, to, message);
    for (int rank = 0; rank < world.size(); ++rank) world.submit(rank, "after", signature);
    world.run(10s);
    // A message that happens to have a meaning may do anything that its sender could; no rank gets
    // anything after its end.
    for (const std::string& violation : world.violations()) {
      INFO("seed " << seed << ": " << violation);
      REQUIRE(violation.find("after the session's end") == std::string::npos);
    }
    for (int rank = 0; rank < world.size(); ++rank) {
      INFO("seed " << seed << ", rank " << rank);
      REQUIRE((!world.end_of(rank) || world.in_flight(rank) == 0));
      ends += world.end_of(rank) ? 1 : 0;
    }
  }
  CHECK(ends > 100);
}

TEST_CASE("a malformed message ends the session on every rank and names its sender") {
  for (const auto& [from, to] : {std::pair{5, 0}, {0, 5}}) {
    sim::WorldOptions options;
    options.size = 9;
    sim::World world(options);
    world.inject(from, to, std::string("\x01\x00\x63", 3));
    world.run(2s);
    world.check_drained(true);
    CHECK(world.violations().empty());
    for (int rank = 0; rank < world.size(); ++rank) {
      REQUIRE(world.end_of(rank));
      CHECK(world.end_of(rank)->code() == StatusCode::internal);
      CHECK_THAT(world.end_of(rank)->message(),
                 Contains("malformed") && Contains("from rank " + std::to_string(from)));
    }
  }
}
