#pragma once

#include <cstddef>
#include <span>

#include "base/open_file.hpp"

namespace scalecom {

/// Memory that processes of one host share: an anonymous file (memfd), known by its descriptor
/// alone, so that nothing stays behind when its processes are killed. Zero at first; its size never
/// changes. Move-only; unmaps and closes.
class SharedSegment {
 public:
  /// Throws Error(unavailable) with the system's reason: the memory is reserved here, so that no
  /// later access fails.
  static SharedSegment create(std::size_t bytes);
  /// Takes over a descriptor that create() made in another process. Throws Error(unavailable) when
  /// it is not one of `bytes` bytes that nobody can shorten.
  static SharedSegment adopt(int descriptor, std::size_t bytes);

  SharedSegment() = default;
  ~SharedSegment();
  SharedSegment(SharedSegment&& other) noexcept;
  SharedSegment& operator=(SharedSegment&& other) noexcept;

  int descriptor() const noexcept { return file_.descriptor(); }
  std::span<std::byte> bytes() const noexcept { return memory_; }

 private:
  explicit SharedSegment(int descriptor) : file_(descriptor) {}
  void map(std::size_t bytes);

  OpenFile file_;
  std::span<std::byte> memory_;
};

}  // namespace scalecom
