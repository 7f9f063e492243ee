/* A ledger in memory, a set and a loop, for tests of sinks with real peers.
 * One rig a test; functions fail the test themselves. */
#ifndef TESTS_SINKS_SINK_RIG_H
#define TESTS_SINKS_SINK_RIG_H

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "sinks/sink.h"
#include "sinks/sink_kind.h"

/* A sanitized test on a busy machine is slow; a hang is longer. */
#define RIG_SECONDS 120

struct sink_rig {
    uv_loop_t loop;
    struct ledger *ledger;
    struct sink_set *set;
    struct sink_set *closing; /* NULL once it is closed */
    char dir[64];             /* of this test's files */
};

void sink_rig_init(struct sink_rig *rig);
/* Closes the set and runs the loop until it is closed. */
void sink_rig_close_set(struct sink_rig *rig);
/* The same if it is open, and runs the loop out. */
void sink_rig_fini(struct sink_rig *rig);

/* A struct of the kind's settings with its standards, the caller's to free. */
void *sink_rig_settings(const struct sink_kind *kind);
void sink_rig_set_text(const struct sink_kind *kind, void *settings,
    const char *name, const char *value);
void sink_rig_set_uint(const struct sink_kind *kind, void *settings,
    const char *name, uint64_t value);
void sink_rig_set_bool(
    const struct sink_kind *kind, void *settings, const char *name, bool value);

/* Checks the settings, opens a sink of this name and adds it. */
struct sink *sink_rig_add(struct sink_rig *rig, const struct sink_kind *kind,
    const char *name, const void *settings);

/* The complaint of the kind's check: "field: words". */
const char *sink_rig_complaint(
    const struct sink_kind *kind, const void *settings);

/* n receipts of a drain. */
void sink_rig_issue(struct sink_rig *rig, int n);

/* Runs the loop until the condition holds. */
void sink_rig_run_until(
    struct sink_rig *rig, bool (*holds)(void *ctx), void *ctx);
void sink_rig_run_until_acknowledged(
    struct sink_rig *rig, struct sink *sink, uint64_t sequence);
void sink_rig_run_until_error(
    struct sink_rig *rig, struct sink *sink, const char *words);
/* Runs the loop for a while in which nothing is to happen. */
void sink_rig_run_for(struct sink_rig *rig, uint64_t ms);

/* A file of the test's directory; the name is borrowed until the next call. */
const char *sink_rig_path(struct sink_rig *rig, const char *name);
void sink_rig_write(struct sink_rig *rig, const char *name, const char *text);

/* In the test's directory: ca.pem, and a certificate of it for this host,
 * server.pem and server.key; other-ca.pem, which vouches for neither. */
void sink_rig_make_certificates(struct sink_rig *rig, const char *host);

#endif
