#include "runtime/control/handshake.hpp"

#include "tests/support/catch.hpp"

using namespace scalecom;

TEST_CASE("both ends that know the key accept each other") {
  const Handshake handshake{random_bytes(kSessionKeyBytes), 0};
  const std::string challenge = random_bytes(kChallengeBytes);
  const std::string answer = handshake.answer(challenge, 300);
  CHECK(answer.size() == kAnswerBytes);
  CHECK(handshake.check_answer(challenge, answer) == 300);
  const std::string proof = handshake.prove(challenge, answer);
  CHECK(proof.size() == kProofBytes);
  CHECK(handshake.is_proof(proof, challenge, answer));
}

TEST_CASE("another key, challenge, parent or rank, or any flipped bit, is refused") {
  const std::string key = random_bytes(kSessionKeyBytes);
  const Handshake handshake{key, 4};
  const std::string challenge = random_bytes(kChallengeBytes);
  const std::string answer = handshake.answer(challenge, 5);
  CHECK_FALSE(Handshake{random_bytes(kSessionKeyBytes), 4}.check_answer(challenge, answer));
  CHECK_FALSE(Handshake{key, 3}.check_answer(challenge, answer));
  CHECK_FALSE(handshake.check_answer(random_bytes(kChallengeBytes), answer));
  CHECK_FALSE(handshake.check_answer(challenge, answer.substr(1)));
  for (std::size_t i = 0; i < answer.size(); ++i) {
    std::string forged = answer;
    forged[i] = static_cast<char>(forged[i] ^ 1);
    REQUIRE_FALSE(handshake.check_answer(challenge, forged));
  }
  CHECK_FALSE(handshake.is_proof(std::string(kProofBytes, '\0'), challenge, answer));
  CHECK_FALSE(handshake.is_proof("", challenge, answer));
  // What the child sent cannot serve as the parent's proof.
  CHECK_FALSE(handshake.is_proof(answer.substr(kAnswerBytes - kProofBytes), challenge, answer));
}

TEST_CASE("random bytes differ from call to call") { CHECK(random_bytes(32) != random_bytes(32)); }
