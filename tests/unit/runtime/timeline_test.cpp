// The timeline's file, text and bounds; session_timeline_test.cpp has what sessions tell.
#include "runtime/timeline/timeline.hpp"

#include <sys/stat.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.hpp"
#include "tests/support/captured_stderr.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/file_limit.hpp"
#include "tests/support/temporary_folder.hpp"
#include "tests/support/timeline_file.hpp"

using namespace scalecom;
using Catch::Contains;
using nlohmann::json;
using test::ReadTimeline;

namespace {

json contents(const std::string& path) {
  std::ifstream file(path);
  return json::parse(file);
}

}  // namespace

TEST_CASE("the file is whole after each write, and one that is there is replaced") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/t.json";
  std::ofstream(path) << std::string(1000, 'x');
  TimelineFile file(path, "SCALECOM_TIMELINE=t.json", 0);
  CHECK(contents(path) == json::array());
  file.append("1");
  CHECK(contents(path) == json{1});
  file.append("");
  CHECK(contents(path) == json{1});
  file.append("2,\n3");
  CHECK(contents(path) == json{1, 2, 3});
}

TEST_CASE("elements of any length are all there, and no write but a bracket's crosses a page") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/t.json";
  TimelineFile file(path, "test", 0);
  std::mt19937 random(7);
  json expected = json::array();
  for (int write = 0; write < 200; ++write) {
    std::string elements;
    for (int i = 0; i < 20; ++i) {
      const bool is_long = random() % 20 == 0;
      const std::string element(random() % (is_long ? 3990 : 150), 'a');
      elements += (i == 0 ? "\"" : ",\n\"") + element + '"';
      expected.push_back(element);
    }
    file.append(elements);
    REQUIRE(contents(path) == expected);
  }
  // What a page holds ends in white space or in whole elements.
  std::ifstream stream(path);
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  for (std::size_t page = 4096; page < text.size(); page += 4096) {
    REQUIRE(json::parse(text.substr(0, page) + "]") != json());
  }
}

TEST_CASE("a path that cannot be written is an error that says what to do") {
  const test::TemporaryFolder folder;
  const std::string pipe = folder.path() + "/pipe";
  REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
  for (const std::string& path :
       {std::string("/nowhere/at/all.json"), std::string("/dev/full"), folder.path(), pipe}) {
    CHECK_THROWS_WITH(
        TimelineFile(path, "SCALECOM_TIMELINE=x", 3),
        Contains("SCALECOM_TIMELINE=x") && Contains(path) && Contains("rank 3") &&
            (Contains("No such ") || Contains("No space left") || Contains("Is a directory")) &&
            Contains("name a file in a folder that exists"));
  }
}

TEST_CASE("a disk that becomes full leaves what was written before") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/t.json";
  const test::CapturedStderr captured;
  TimelineFile file(path, "SCALECOM_TIMELINE=t.json", 0);
  file.append("1");
  {
    const test::FileLimit limit(2000);  // The log's line has to fit.
    file.append("\"" + std::string(5000, 'x') + "\"");
  }
  file.append("2");
  CHECK(contents(path) == json{1});
  CHECK_THAT(captured.text(), Contains("SCALECOM_TIMELINE=t.json") && Contains("File too large") &&
                                  Contains("what was written before is whole"));
}

TEST_CASE("names of tensors may hold anything") {
  const std::string name = "a \"b\" \\ \n\x01 {rank} \xc3\xa9";
  TimelineText text({2, 4}, TimePoint{});
  text.add_row(name);
  text.add_row("not UTF-8: \xff\xfe");
  text.add_row(std::string(10'000, 'n'));
  text.add({TimePoint{} + std::chrono::nanoseconds(1'234'567), 1,
            TimelineHealth{.relative_error = 0.5, .residual_to_gradient = INFINITY}});
  const json events = json::parse("[" + text.take() + "]");
  const json& health = events.back();
  CHECK(events[0]["args"]["name"] == "scalecom rank 2 of 4");
  CHECK(events[4]["args"]["name"] == name);
  CHECK(events[5]["args"]["name"] == "not UTF-8: \xef\xbf\xbd\xef\xbf\xbd");
  CHECK(events[6]["args"]["name"].get<std::string>().size() == 512);
  CHECK(health["name"] == "health of " + name);
  CHECK(health["ts"] == 1234.567);
  CHECK(health["args"] ==
        json{{"relative_error", 0.5}, {"hamming_distance", 0.0}, {"chunk_overlap", 0.0}});
}

TEST_CASE("who gives events never waits: what finds no room is lost, counted and said") {
  constexpr int kEvents = 50'000;
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/t.json";
  const test::CapturedStderr captured;
  std::uint64_t lost = 0;
  {
    TimelineWriter writer(path, "test", {0, 1}, 8);
    const TimelineRow row = writer.add_row("w");
    for (int i = 0; i < kEvents; ++i) writer.push({Clock::now(), row, TimelineSpan{"A"}});
    lost = writer.lost();
  }
  const ReadTimeline timeline(path);
  std::uint64_t said = 0;
  for (const json& event : timeline.events()) {
    if (event["name"] == "LOST_EVENTS") said += event["args"]["events"].get<std::uint64_t>();
  }
  CHECK(lost > 0);
  CHECK(said == lost);
  CHECK(timeline.of("w", "X").size() + lost == kEvents);
  CHECK_THAT(captured.text(), Contains("has lost " + std::to_string(lost) + " events"));
}

TEST_CASE("tensors beyond the last row are lost, those before are not") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path() + "/t.json";
  const test::CapturedStderr captured;
  Timeline timeline;
  timeline.start(std::make_unique<TimelineWriter>(path, "test", TimelineOwner{}), false);
  for (std::size_t i = 0; i < TimelineWriter::kRowsMax + 7; ++i) {
    timeline.arrive("w" + std::to_string(i), 0, 1, Clock::now());
  }
  const auto writer = timeline.stop();
  CHECK(writer->lost() == 7);
  CHECK_FALSE(timeline.is_on());
}

TEST_CASE("a batch keeps so many phases, and all that follow are one") {
  BatchTimes batch({});
  for (std::size_t i = 0; i < BatchTimes::kPhasesMax; ++i) {
    batch.enter(i % 2 == 0 ? phases::kSelect : phases::kIndexExchange);
    batch.enter(batch.phases().back().name);
  }
  CHECK(batch.phases().size() == BatchTimes::kPhasesMax);
  batch.enter(phases::kSelect);
  batch.enter(phases::kWriteResult);
  REQUIRE(batch.phases().size() == BatchTimes::kPhasesMax + 1);
  CHECK(batch.phases().back().name == std::string("MORE_PHASES"));
}
