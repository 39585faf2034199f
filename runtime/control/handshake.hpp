#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace scalecom {

/// Mutual proof that both ends of a new connection know the session's key, before any other byte of
/// the peer is looked at. Pure: it makes and checks messages of fixed size.
///
///   parent -> child   challenge: 32 random bytes
///   child -> parent   answer: 32 random bytes, its rank (4 bytes), HMAC-SHA256 over all of it
///   parent -> child   proof: HMAC-SHA256 over the child's random bytes
///
/// Each HMAC also covers a word for its direction and both rank numbers, so that no message serves
/// for another connection or in the other direction.
inline constexpr std::size_t kSessionKeyBytes = 32;
inline constexpr std::size_t kChallengeBytes = 32;
inline constexpr std::size_t kAnswerBytes = 32 + 4 + 32;
inline constexpr std::size_t kProofBytes = 32;

/// Bytes from the system's cryptographic generator. Throws Error(unavailable).
std::string random_bytes(std::size_t size);

/// Two digits a byte.
std::string to_hex(std::string_view bytes);
/// HMAC-SHA256 of `text` under `secret`, which may be empty: kSessionKeyBytes.
std::string derive_key(const std::string& secret, const std::string& text);

struct Handshake {
  std::string key;
  int parent = 0;

  /// The child's side.
  std::string answer(std::string_view challenge, int child) const;
  bool is_proof(std::string_view proof, std::string_view challenge, std::string_view answer) const;

  /// The parent's side: the child's rank when the answer is right.
  std::optional<int> check_answer(std::string_view challenge, std::string_view answer) const;
  std::string prove(std::string_view challenge, std::string_view answer) const;
};

}  // namespace scalecom
