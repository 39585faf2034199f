#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "transport/bootstrap.hpp"
#include "transport/socket/sockets.hpp"

namespace scalecom {

// Beyond a limit, for rank 0's word on who is missing.
inline constexpr std::chrono::seconds kVerdictTime{2};

/// What rank 0 answers those that have come: everybody's blobs, or why there is none.
std::string to_reply(const std::vector<std::string>& blobs);
std::string to_reply(const Error& error);
/// The blobs. Throws the Error that rank 0 sent, and Error(internal) for what is no reply.
std::vector<std::string> read_reply(std::string_view reply);

/// Rank 0's end of a meeting, with the others' connections by rank, which it passes blobs between.
std::unique_ptr<Bootstrap> make_root_bootstrap(int size, std::map<int, Socket> others);
/// Another rank's end, with its connection to rank 0.
std::unique_ptr<Bootstrap> make_member_bootstrap(int rank, int size, Socket root);

}  // namespace scalecom
