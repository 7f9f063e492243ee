#include "sinks/sink_kind.h"

const struct sink_kind *const sink_kinds[] = {
    &sink_log_kind,
    &sink_file_kind,
    &sink_http_kind,
    &sink_nats_kind,
};
const size_t sink_n_kinds = sizeof sink_kinds / sizeof *sink_kinds;
