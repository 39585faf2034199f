// scalecom-netlab-switch: an Ethernet switch in user space that delays what it forwards.
//
// It makes TAP devices port0 to portN-1 in the network namespace it is started in, prints "ready",
// and from then on forwards frames between them until its standard input closes. Whoever started it
// moves each device into the namespace of a host. A frame leaves the switch `latency` after it was
// read, plus a random part of `jitter`, in order on each port; `loss` of the frames are dropped.
//
// Without loss the devices hand over TCP segments of up to 64 KiB whole, with the header that says
// how to cut them (IFF_VNET_HDR), and the switch passes both on: one read and one write for some 40
// packets. With loss they do not, so that what is lost is a packet of the link's size.

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <iostream>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Microseconds = std::chrono::duration<double, std::micro>;
using MacAddress = std::array<std::byte, 6>;

constexpr std::size_t kHeaderBytes = 10;  // virtio_net_hdr, in front of each frame
constexpr std::size_t kFrameBytesMax = kHeaderBytes + 14 + 65535;
// More than 100 ms of 4 Gbit/s; what does not fit is dropped, as by any switch.
constexpr std::size_t kQueueBytesMax = 64U << 20U;
constexpr int kFramesPerTurn = 64;  // of one port, before the others have their turn

struct Options {
  int ports = 2;
  double latency_us = 0.0;
  double jitter_us = 0.0;
  double loss_percent = 0.0;
  std::uint64_t seed = 1;
};

/// The switch's end of a TAP device. The device lives as long as this object.
class Tap {
 public:
  Tap(const std::string& name, bool has_segmentation)
      : descriptor_(open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)) {
    check(descriptor_, "cannot open /dev/net/tun");
    ifreq request{};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    check(ioctl(descriptor_, TUNSETIFF, &request), "cannot make the TAP device " + name);
    const unsigned long offloads =
        has_segmentation ? TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 : TUN_F_CSUM;
    check(ioctl(descriptor_, TUNSETOFFLOAD, offloads), "cannot set the offloads of " + name);
  }
  Tap(Tap&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Tap(const Tap&) = delete;
  Tap& operator=(const Tap&) = delete;
  Tap& operator=(Tap&&) = delete;
  ~Tap() {
    if (descriptor_ >= 0) close(descriptor_);
  }

  int descriptor() const { return descriptor_; }

  /// Bytes of the frame read, its header included; nothing where none waits.
  std::optional<std::size_t> read_frame(std::span<std::byte> buffer) const {
    const ssize_t bytes = read(descriptor_, buffer.data(), buffer.size());
    if (bytes >= 0) return static_cast<std::size_t>(bytes);
    if (errno == EAGAIN || errno == EINTR) return std::nullopt;
    throw std::system_error(errno, std::generic_category(), "cannot read from a port");
  }

  /// A host that is not up, or has no memory, loses the frame, as on a real link.
  void write_frame(std::span<const std::byte> frame) const {
    [[maybe_unused]] const ssize_t bytes = write(descriptor_, frame.data(), frame.size());
  }

 private:
  static void check(int result, const std::string& what) {
    if (result < 0) throw std::system_error(errno, std::generic_category(), what);
  }

  int descriptor_;
};

/// Frames on their way to one port, in order of their due times.
class DelayLine {
 public:
  void push(Clock::time_point due, std::span<const std::byte> frame) {
    if (bytes_ + frame.size() > kQueueBytesMax) return;
    if (!frames_.empty()) due = std::max(due, frames_.back().due);  // Jitter reorders nothing.
    frames_.push_back({due, {frame.begin(), frame.end()}});
    bytes_ += frame.size();
  }

  std::optional<Clock::time_point> next_due() const {
    return frames_.empty() ? std::nullopt : std::optional(frames_.front().due);
  }

  void deliver_due(Clock::time_point now, const Tap& tap) {
    while (!frames_.empty() && frames_.front().due <= now) {
      tap.write_frame(frames_.front().bytes);
      bytes_ -= frames_.front().bytes.size();
      frames_.pop_front();
    }
  }

 private:
  struct Frame {
    Clock::time_point due;
    std::vector<std::byte> bytes;
  };
  std::deque<Frame> frames_;
  std::size_t bytes_ = 0;
};

/// One thread, one loop: wait for a frame or the next due time, read, deliver.
class Switch {
 public:
  explicit Switch(const Options& options)
      : options_(options), random_(options.seed), buffer_(kFrameBytesMax) {
    for (int port = 0; port < options.ports; ++port) {
      ports_.push_back({Tap("port" + std::to_string(port), options.loss_percent == 0.0), {}});
      descriptors_.push_back({ports_.back().tap.descriptor(), POLLIN, 0});
    }
    descriptors_.push_back({STDIN_FILENO, POLLIN, 0});
  }

  /// Returns when standard input closes.
  void run() {
    for (;;) {
      wait();
      if (descriptors_.back().revents != 0 && is_input_closed()) return;
      for (std::size_t port = 0; port < ports_.size(); ++port) {
        if ((descriptors_[port].revents & (POLLERR | POLLNVAL)) != 0) {
          throw std::runtime_error("port" + std::to_string(port) + " is gone");
        }
        if (descriptors_[port].revents != 0) read_port(port);
      }
      const Clock::time_point now = Clock::now();
      for (Port& port : ports_) port.line.deliver_due(now, port.tap);
    }
  }

 private:
  struct Port {
    Tap tap;
    DelayLine line;
  };

  static bool is_input_closed() {
    std::array<char, 64> ignored{};
    return read(STDIN_FILENO, ignored.data(), ignored.size()) <= 0;
  }

  std::optional<Clock::time_point> next_due() const {
    std::optional<Clock::time_point> first;
    for (const Port& port : ports_) {
      const auto due = port.line.next_due();
      if (due && (!first || *due < *first)) first = due;
    }
    return first;
  }

  /// Until a frame comes, input closes or the next frame is due. With nothing on its way there is
  /// no deadline: whoever started the switch ends it by closing its input, or by ending itself.
  void wait() {
    timespec limit{};
    const auto due = next_due();
    if (due) {
      const auto left = std::max(*due - Clock::now(), Clock::duration::zero());
      const auto nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
      limit = {static_cast<time_t>(nanoseconds / 1'000'000'000), nanoseconds % 1'000'000'000};
    }
    if (ppoll(descriptors_.data(), descriptors_.size(), due ? &limit : nullptr, nullptr) >= 0) {
      return;
    }
    if (errno != EINTR) throw std::system_error(errno, std::generic_category(), "cannot wait");
    for (pollfd& descriptor : descriptors_) descriptor.revents = 0;
  }

  void read_port(std::size_t port) {
    for (int turn = 0; turn < kFramesPerTurn; ++turn) {
      const auto bytes = ports_[port].tap.read_frame(buffer_);
      if (!bytes) return;
      if (*bytes >= kHeaderBytes + 14) forward(port, std::span(buffer_).first(*bytes));
    }
  }

  /// To the port where the destination was last seen as a source; to all others where it never was.
  void forward(std::size_t from, std::span<const std::byte> frame) {
    port_of_[address_at(frame, kHeaderBytes + 6)] = from;
    if (unit_(random_) * 100.0 < options_.loss_percent) return;
    const double delay_us = options_.latency_us + unit_(random_) * options_.jitter_us;
    const auto due =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(Microseconds(delay_us));
    const auto known = port_of_.find(address_at(frame, kHeaderBytes));
    for (std::size_t to = 0; to < ports_.size(); ++to) {
      const bool is_wanted = known == port_of_.end() || to == known->second;
      if (is_wanted && to != from) ports_[to].line.push(due, frame);
    }
  }

  static MacAddress address_at(std::span<const std::byte> frame, std::size_t offset) {
    MacAddress address{};
    std::memcpy(address.data(), frame.data() + offset, address.size());
    return address;
  }

  Options options_;
  std::mt19937_64 random_;
  std::uniform_real_distribution<double> unit_{0.0, 1.0};
  std::vector<Port> ports_;
  std::vector<pollfd> descriptors_;  // The ports', then standard input's.
  std::map<MacAddress, std::size_t> port_of_;
  std::vector<std::byte> buffer_;
};

Options parse_options(int argc, char** argv) {
  CLI::App app{"Forwards frames between TAP devices port0, port1, ... with a delay"};
  Options options;
  app.add_option("--ports", options.ports, "TAP devices to make")->check(CLI::Range(1, 64));
  app.add_option("--latency-us", options.latency_us, "Delay of each frame, one way")
      ->check(CLI::Range(0.0, 1e6));
  app.add_option("--jitter-us", options.jitter_us, "Largest random addition to it")
      ->check(CLI::Range(0.0, 1e6));
  app.add_option("--loss-percent", options.loss_percent, "Frames dropped at random")
      ->check(CLI::Range(0.0, 100.0));
  app.add_option("--seed", options.seed, "Of the random numbers");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse_options(argc, argv);
  try {
    prctl(PR_SET_TIMERSLACK, 1UL);  // The default, 50 us, would add to every latency.
    Switch forwarding(options);
    std::cout << "ready" << std::endl;
    forwarding.run();
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "scalecom-netlab-switch: " << error.what() << "\n";
    return 1;
  }
}
