#include "runtime/control/handshake.hpp"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <cstdint>

#include "base/little_endian.hpp"
#include "scalecom/status.hpp"

namespace scalecom {
namespace {

constexpr std::size_t kNonceBytes = 32;
constexpr std::size_t kMacBytes = 32;

std::string mac(const std::string& key, const std::string& message) {
  std::string result(kMacBytes, '\0');
  unsigned length = 0;
  const auto* bytes = reinterpret_cast<const unsigned char*>(message.data());
  if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), bytes, message.size(),
           reinterpret_cast<unsigned char*>(result.data()), &length) == nullptr ||
      length != kMacBytes) {
    throw Error(StatusCode::unavailable, "HMAC-SHA256 is not available in this OpenSSL");
  }
  return result;
}

bool is_equal(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

std::string answer_mac(const Handshake& handshake, std::string_view challenge,
                       std::string_view nonce_and_rank) {
  return mac(handshake.key, "child" + to_bytes(handshake.parent) + std::string(challenge) +
                                std::string(nonce_and_rank));
}

}  // namespace

std::string random_bytes(std::size_t size) {
  std::string bytes(size, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(size)) != 1) {
    throw Error(StatusCode::unavailable, "the system has no random bytes for the session key");
  }
  return bytes;
}

std::string to_hex(std::string_view bytes) {
  std::string hex;
  for (const char byte : bytes) hex += fmt::format("{:02x}", static_cast<std::uint8_t>(byte));
  return hex;
}

std::string derive_key(const std::string& secret, const std::string& text) {
  return mac(secret, text);
}

std::string Handshake::answer(std::string_view challenge, int child) const {
  const std::string body = random_bytes(kNonceBytes) + to_bytes(child);
  return body + answer_mac(*this, challenge, body);
}

std::optional<int> Handshake::check_answer(std::string_view challenge,
                                           std::string_view answer) const {
  if (answer.size() != kAnswerBytes) return std::nullopt;
  const std::string_view body = answer.substr(0, kAnswerBytes - kMacBytes);
  if (!is_equal(answer.substr(body.size()), answer_mac(*this, challenge, body))) {
    return std::nullopt;
  }
  return load_number<int>(body.data() + kNonceBytes);
}

std::string Handshake::prove(std::string_view challenge, std::string_view answer) const {
  return mac(key, "parent" + to_bytes(parent) + std::string(challenge) + std::string(answer));
}

bool Handshake::is_proof(std::string_view proof, std::string_view challenge,
                         std::string_view answer) const {
  return is_equal(proof, prove(challenge, answer));
}

}  // namespace scalecom
