#pragma once

/// Marks what libscalecom.so exports; everything else is hidden.
#define SCALECOM_API __attribute__((visibility("default")))
