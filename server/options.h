/* Everything that can be set, from one table: name, type, default, range, and a
 * line of help. Defaults < a YAML file < KVPOOL_* in the environment < flags.
 *
 *     kv_cache_size_mb: 512    in the file that --config or KVPOOL_CONFIG names
 *     KVPOOL_KV_CACHE_SIZE_MB=512
 *     --kv-cache-size-mb=512
 *
 * Strict: an unknown name or a bad value is an error that says what was given
 * and what is allowed, and in a file where: kvpool.yaml:3:19. What is
 * overridden must be right all the same. */
#ifndef SERVER_OPTIONS_H
#define SERVER_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/log.h"

/* KIND(field, default, least, most, "unit or value", "help") for numbers; the
 * others have their own shapes. A LIST is a text with commas, in a file also a
 * list of texts. The order is that of --help. */
#define SERVER_OPTIONS(TEXT, LIST, UINT, BOOL, CHOICE)                         \
    LIST(listen, "127.0.0.1:7440", "ADDRESS[,ADDRESS]",                        \
        "where gRPC is served: host:port, [v6]:port or unix:/path")            \
    TEXT(admin_listen, "", "ADDRESS",                                          \
        "where /metrics, /livez, /readyz are served by HTTP; empty: nowhere")  \
    UINT(admin_max_connections, 32, 1, 65536, "", "HTTP connections at once")  \
    UINT(admin_idle_s, 30, 1, 86400, "s",                                      \
        "close HTTP connections that are silent so long")                      \
    UINT(metrics_max_tenants, 100, 0, 1000, "",                                \
        "tenants that have metrics of their own, first by name")               \
    TEXT(model, "", "FILE", "GGUF model; empty is the built-in demo model")    \
    CHOICE(model_prefetch, "ahead", "off|ahead|wait",                          \
        "read the model ahead; wait: before anything is served")               \
    BOOL(model_lock, false, "lock the weights in memory (RLIMIT_MEMLOCK)")     \
    TEXT(tokenizer_pre, "", "NAME",                                            \
        "how text is cut into words where a model's file does not say")        \
    UINT(kv_cache_size_mb, 512, 1, 16777216, "MiB", "size of the KV pool")     \
    UINT(block_tokens, 16, 1, 1024, "tokens", "tokens of one block")           \
    CHOICE(                                                                    \
        kv_type, "f16", "f32|f16|q8_0", "type of keys and values in the pool") \
    BOOL(prefix_cache, true,                                                   \
        "share full blocks between sessions of a tenant that begin alike")     \
    UINT(max_beginnings, 10000, 0, 16777216, "",                               \
        "requests without a session whose full blocks stay; 0: none")          \
    UINT(max_sessions, 100000, 1, 16777216, "", "sessions known at once")      \
    UINT(tenant_soft_blocks, 0, 0, 2147483647, "blocks",                       \
        "beyond so many a tenant's own sessions are evicted first; 0 is none") \
    UINT(tenant_hard_blocks, 0, 0, 2147483647, "blocks",                       \
        "beyond so many a tenant gets none; 0 is none")                        \
    UINT(max_kept_tokens, 16777216, 0, 1099511627776, "tokens",                \
        "tokens kept of evicted sessions")                                     \
    UINT(kept_tokens_ttl_s, 3600, 0, 31536000, "s",                            \
        "how long they are kept; 0 is for ever")                               \
    UINT(session_idle_ttl_s, 0, 0, 31536000, "s",                              \
        "evict sessions idle for longer; 0 is never")                          \
    CHOICE(eviction_policy, "lru", "lru|lru_tail|priority|s3fifo|cost",        \
        "which sessions give up blocks first when room is needed")             \
    UINT(high_watermark_percent, 0, 0, 100, "%",                               \
        "of blocks in use beyond which a sweep evicts; 0 is never")            \
    UINT(low_watermark_percent, 80, 0, 100, "%",                               \
        "of blocks in use at which it ends")                                   \
    UINT(sweep_blocks, 256, 1, 1048576, "",                                    \
        "blocks that a sweep evicts before others have their turn")            \
    UINT(retention_max_ttl_s, 0, 0, 31536000, "s",                             \
        "longest TTL that a client may set; 0 is any, and none")               \
    UINT(retention_max_pin_s, 86400, 0, 31536000, "s",                         \
        "longest pin that a client may set")                                   \
    UINT(retention_max_lease_s, 3600, 0, 31536000, "s",                        \
        "longest lease that a client may set")                                 \
    UINT(threads, 0, 0, 1024, "", "compute threads; 0 is one per processor")   \
    CHOICE(kernels, "auto", "auto|scalar|avx2|avx512|neon",                    \
        "instructions to compute with")                                        \
    UINT(compute_nice, 5, 0, 19, "", "niceness of compute threads")            \
    UINT(max_batch_size, 8, 1, 1024, "", "sequences in a batch")               \
    UINT(max_batch_tokens, 256, 1, 65536, "tokens", "tokens in a step")        \
    UINT(max_step_ms, 250, 1, 60000, "ms",                                     \
        "aim for the length of a step; prompts are cut to fit")                \
    UINT(batch_timeout_ms, 0, 0, 10000, "ms",                                  \
        "wait this long for more requests before an idle loop starts")         \
    UINT(max_waiting_requests, 1024, 1, 1048576, "",                           \
        "requests that may wait for the batch")                                \
    UINT(hold_wait_ms, 10000, 0, 86400000, "ms",                               \
        "requests wait so long for blocks under pins and leases")              \
    BOOL(enable_receipts, false, "issue, keep and stream receipts")            \
    TEXT(data_dir, "", "DIR",                                                  \
        "where receipts are kept, made if not there; empty is in memory only") \
    UINT(receipts_ring_mb, 64, 1, 1048576, "MiB", "receipts kept in memory")   \
    UINT(receipts_segment_mb, 64, 1, 1048576, "MiB",                           \
        "a file of receipts ends beyond this")                                 \
    UINT(receipts_retain_mb, 0, 0, 1073741824, "MiB",                          \
        "receipts kept on disk; 0 is all")                                     \
    UINT(receipts_retain_s, 0, 0, 3153600000, "s",                             \
        "how long they are kept; 0 is for ever")                               \
    UINT(receipts_cursor_hold_mb, 1024, 0, 1073741824, "MiB",                  \
        "kept beyond that for sinks that are behind")                          \
    UINT(receipts_max_ahead, 4096, 1, 1048576, "",                             \
        "receipts that may wait for the disk before evictions stop")           \
    BOOL(accept_loss, false,                                                   \
        "where receipts are damaged, set them aside and begin anew")           \
    BOOL(receipts_log, true, "write receipts to the log as well")              \
    BOOL(receipts_allocations, false,                                          \
        "issue receipts of allocations and releases as well")                  \
    UINT(max_request_ids, 10000, 1, 1048576, "",                               \
        "Evict calls remembered for a repeat of their request_id")             \
    UINT(request_ids_mb, 64, 1, 1048576, "MiB", "memory for their outcomes")   \
    UINT(request_id_ttl_s, 3600, 1, 31536000, "s",                             \
        "how long they are remembered")                                        \
    TEXT(signing_key, "", "FILE",                                              \
        "key of checkpoints, made if not there; empty: in data_dir, or new")   \
    UINT(snapshot_interval_ms, 10000, 0, 86400000, "ms",                       \
        "how often a pool snapshot receipt is issued; 0 is never")             \
    UINT(max_subscribers, 1024, 1, 1048576, "", "receipt streams at once")     \
    UINT(subscriber_stall_ms, 30000, 100, 86400000, "ms",                      \
        "disconnect a subscriber that takes nothing for longer")               \
    UINT(lossy_lag_receipts, 16384, 1024, 1099511627776, "",                   \
        "a subscriber that may miss receipts is moved ahead beyond this")      \
    UINT(max_calls, 4096, 1, 1048576, "", "calls at once")                     \
    UINT(max_connections, 2048, 1, 1048576, "", "connections at once")         \
    UINT(max_streams_per_connection, 1024, 1, 1048576, "",                     \
        "calls of one connection at once")                                     \
    UINT(max_request_bytes, 4194304, 1024, 1073741824, "bytes",                \
        "largest request")                                                     \
    UINT(keepalive_s, 30, 1, 86400, "s", "ping peers that are silent so long") \
    UINT(drain_limit_ms, 10000, 0, 3600000, "ms",                              \
        "time for calls in progress when stopping")                            \
    UINT(loop_stall_ms, 1000, 0, 86400000, "ms",                               \
        "log that nothing is answered for longer; 0 is never")                 \
    CHOICE(log_level, "info", "debug|info|warn|error", "least level to log")   \
    CHOICE(log_format, "logfmt", "logfmt|json", "form of log lines")

/* What to do instead of serving; flags without a value, and nothing else. */
#define SERVER_COMMANDS(COMMAND)                                               \
    COMMAND(check_config, "say whether the configuration is valid, and exit")  \
    COMMAND(print_config, "print each value with its source, and exit")        \
    COMMAND(help, "this text")                                                 \
    COMMAND(version, "the version")

/* From the weakest to the strongest. */
enum option_source {
    OPTION_DEFAULT,
    OPTION_FILE,
    OPTION_VARIABLE,
    OPTION_FLAG
};

struct option_origin {
    enum option_source source;
    uint32_t line; /* OPTION_FILE: where, from 1 */
};

/* The sinks that the file names, for which there is no flag and no variable
 * (server/options_sinks.h). */
struct option_sinks {
    struct option_sink *list; /* [n] */
    size_t n;
    uint32_t line; /* of the key; 0: it is not there */
};

/* The quotas of tenants that the file names, likewise
 * (server/options_tenants.h). */
struct option_tenants {
    struct option_tenant *list; /* [n] */
    size_t n;
    uint32_t line; /* of the key; 0: it is not there */
};

#define OPTION_COUNT(...) +1
enum {
    N_OPTIONS = 0 SERVER_OPTIONS(
        OPTION_COUNT, OPTION_COUNT, OPTION_COUNT, OPTION_COUNT, OPTION_COUNT),
    /* Beside them config itself, and the commands. */
    N_OPTION_ROWS = N_OPTIONS + 1 SERVER_COMMANDS(OPTION_COUNT),
};
#undef OPTION_COUNT

#define OPTION_TEXT(name, standard, value, help) const char *name;
#define OPTION_UINT(name, standard, least, most, unit, help) uint64_t name;
#define OPTION_BOOL(name, standard, help) bool name;
#define OPTION_COMMAND(name, help) bool name;
struct options {
    SERVER_OPTIONS(
        OPTION_TEXT, OPTION_TEXT, OPTION_UINT, OPTION_BOOL, OPTION_TEXT)
    const char *config; /* the file; empty: there is none */
    struct option_sinks sinks;
    struct option_tenants tenants;
    SERVER_COMMANDS(OPTION_COMMAND)
    struct option_origin origins[N_OPTION_ROWS]; /* in the table's order */
    char *storage;                               /* what the texts point into */
    int argc;                                    /* as options_parse got them */
    const char *const *argv, *const *environment;
};
#undef OPTION_TEXT
#undef OPTION_UINT
#undef OPTION_BOOL
#undef OPTION_COMMAND

/* Takes flags as --name=value or --name value, a BOOL also as --name and
 * --no-name; --help and --version, which win over everything else; -- ends the
 * flags, and nothing may follow. Each option is given once. argv[0] is
 * skipped. environment is as environ(7); of KVPOOL_* in it, those of our client
 * and tests (KVPOOL_SERVER, KVPOOL_MODELS) and those that Kubernetes sets for a
 * Service (KVPOOL_SERVICE_HOST, KVPOOL_PORT=tcp://...) are not ours. The file
 * is read here, once; docs/configuration.md says what may be in it.
 *
 * KV_INVALID: *error names the flag, the variable or the place in the file,
 * what was given, and what is allowed. KV_IO: the file cannot be read.
 * KV_NO_MEMORY. *options is written on success only. */
enum kv_status options_parse(struct options *options, int argc,
    const char *const *argv, const char *const *environment,
    struct kv_error *error);
void options_fini(struct options *options);

/* Parses again what options_parse was given, which must still be there, so that
 * a changed file is read. */
enum kv_status options_parse_again(
    const struct options *options, struct options *out, struct kv_error *error);

/* The text of --help: every option with its value, default, range and its
 * environment variable. To stdout. */
void options_print_help(void);

/* The text of --print-config: every option with its value, and where it comes
 * from as a comment. As a file it gives the same values again. To stdout. */
void options_print_config(const struct options *options);

/* SHA-256 of the effective values, name by name, those of the sinks included:
 * the same if and only if the values are. All zero where there is no memory for
 * it. */
void options_digest(const struct options *options, uint8_t digest[32]);

#endif
