#include "transport/transport.hpp"

namespace scalecom {

void wait(Transport& transport, TransportRequest& request, const WaitContext& context,
          std::string_view what) {
  WaitLoop loop(context);
  while (!transport.test(request)) loop.pause(what);
}

void wait_all(Transport& transport, std::span<TransportRequest> requests,
              const WaitContext& context, std::string_view what) {
  for (TransportRequest& request : requests) wait(transport, request, context, what);
}

}  // namespace scalecom
