#pragma once

#include <cstdint>

namespace scalecom::negotiation {

/// Items of a message to the parent: frame, generation, items until the end.
enum class UpItem : std::uint64_t {
  cached_run = 1,      ///< first number (signed, from the end of the last run), count - 1
  cached_extents = 2,  ///< number, first extents of the subtree
  full = 3,            ///< name, signature, first extents if ranks choose theirs
  split = 4,           ///< name, count, then signature and ranks of each group
  acknowledge = 5,     ///< cache generation that the whole subtree has reached
  stall = 6,           ///< name, age in ms, ranks of the subtree that have submitted
  end = 7,             ///< status: the session is to end
  leave = 8,           ///< reason: the schedule is to be left
  report = 9,          ///< least agreements that a rank of the subtree took from it, most - least
  join = 10,  ///< rank of the subtree that has joined, where its zeros are; behind its requests
  ask = 11,   ///< whether rank 0 is there
};
inline constexpr std::uint64_t kUpItems = 12;

/// Items of a message to the children: frame, items until the end.
enum class DownItem : std::uint64_t {
  agreement = 1,   ///< sequence, entries until the last
  mismatch = 2,    ///< name, text
  generation = 3,  ///< the cache generation that starts
  end = 4,         ///< status
  schedule = 5,    ///< sequence of its first agreement, patience in us, count, entries of each
  stop = 6,        ///< reason: no rank takes any more agreements from the schedule
  decision = 7,    ///< agreements that every rank has taken from it, those that only some have
  joined = 8,      ///< the last rank to join: all have
  fusion = 9,      ///< fusion threshold, cycle time in ms: from here on
  answer = 10,     ///< rank 0 is there
};
inline constexpr std::uint64_t kDownItems = 11;

/// Entries of an agreement; of a scheduled one, whose step is that of its first round, only cached
/// runs. A step is the difference from the entry before.
enum class AgreementEntry : std::uint64_t {
  last = 0,
  cached_run = 1,      ///< first number (signed, from the end of the last run), count - 1, step
  cached_extents = 2,  ///< number, first extents of all ranks
  full = 3,            ///< name, 1 when it gets the next cache number, step, first extents
  announced = 4,       ///< while ranks have joined: the same, with the signature before the extents
};
inline constexpr std::uint64_t kAgreementEntries = 5;

/// Frames of each direction of an edge are numbered modulo 128, in one byte: a repeated message is
/// ignored, a missing one noticed.
inline constexpr std::uint64_t kFrames = 128;

}  // namespace scalecom::negotiation
