/* A build without receipts has no sinks. */
#include "sinks/sink_kind.h"

const struct sink_kind *const sink_kinds[] = {NULL};
const size_t sink_n_kinds = 0;
