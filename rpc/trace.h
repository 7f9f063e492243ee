/* W3C Trace Context: the `traceparent` header. Private to rpc/. */
#ifndef RPC_TRACE_H
#define RPC_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_ID_BYTES 16

/* The trace id of a traceparent; false if it is malformed, and *out is
 * untouched. Versions after 00 are read as far as 00 goes, as the standard has
 * it. */
bool trace_id_parse(
    uint8_t out[TRACE_ID_BYTES], const char *traceparent, size_t n);

#endif
