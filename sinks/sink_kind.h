/* A kind of sink, and what can be set about it: a table, as for the options of
 * the server. The configuration file has a list of sinks; each entry names its
 * kind, and its other keys are that kind's settings.
 *
 *     sinks:
 *       - name: audit
 *         kind: file
 *         path: /var/log/kvpool/receipts.jsonl
 *         rotate_mb: 256 */
#ifndef SINKS_SINK_KIND_H
#define SINKS_SINK_KIND_H

#include <uv.h>

#include "sinks/sink.h"

enum sink_setting_kind {
    SINK_TEXT,   /* const char *, never NULL */
    SINK_UINT,   /* uint64_t */
    SINK_BOOL,   /* bool */
    SINK_CHOICE, /* const char *, one of `value` */
};

struct sink_setting {
    const char *name;
    enum sink_setting_kind kind;
    size_t offset;        /* of the field in the kind's struct of settings */
    const char *standard; /* as text; NULL: it must be given */
    uint64_t least, most; /* SINK_UINT */
    const char *value;    /* SINK_TEXT: what --help calls it; SINK_UINT: its
                             unit; SINK_CHOICE: a|b|c; SINK_BOOL: not used */
    const char *help;
};

struct sink_kind {
    const char *name;
    const struct sink_setting *settings;
    size_t n_settings;
    size_t settings_bytes; /* of its struct */

    /* Whether the settings make sense together; may be NULL. KV_INVALID: *field
     * names the one to complain about. */
    enum kv_status (*check)(
        const void *settings, const char **field, struct kv_error *error);

    /* Makes a sink; texts of the settings are borrowed for the call only.
     * KV_IO: the target cannot be used now, and it does not help to try again
     * (a directory that is not there). A target that does not answer is no
     * error: it is tried again for ever. */
    enum kv_status (*open)(struct sink **out, const char *name,
        const void *settings, uv_loop_t *loop, struct kv_error *error);
};

/* All kinds that the configuration may name. */
extern const struct sink_kind *const sink_kinds[];
extern const size_t sink_n_kinds;

/* One file each. */
extern const struct sink_kind sink_log_kind;
extern const struct sink_kind sink_file_kind;
extern const struct sink_kind sink_http_kind;
extern const struct sink_kind sink_nats_kind;

#endif
