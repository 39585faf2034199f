#pragma once

/// Everything of the C++ interface.
#include "scalecom/compression.hpp"
#include "scalecom/config.hpp"
#include "scalecom/device.hpp"
#include "scalecom/explanation.hpp"
#include "scalecom/health.hpp"
#include "scalecom/session.hpp"
#include "scalecom/status.hpp"
#include "scalecom/tensor.hpp"
#include "scalecom/ticket.hpp"
#include "scalecom/version.hpp"
