/* The sinks that the configuration file names: a list of maps, each with a
 * name, a kind, and settings of that kind (sinks/sink_kind.h).
 *
 *     sinks:
 *       - name: audit
 *         kind: file
 *         path: /var/log/kvpool/receipts.jsonl
 *
 * They have no flag and no variable. */
#ifndef SERVER_OPTIONS_SINKS_H
#define SERVER_OPTIONS_SINKS_H

#include "server/options.h"
#include "sinks/sink_kind.h"

#define OPTION_SINK_MAX_SETTINGS 32 /* of a kind */

struct option_sink {
    char name[SINK_NAME_BYTES + 1];
    const struct sink_kind *kind;
    void *settings; /* the kind's struct, its texts behind it; kv_free */
    uint32_t line;  /* where it begins in the file, from 1 */
    uint32_t lines[OPTION_SINK_MAX_SETTINGS]; /* of each setting; 0: standard */
};

/* NULL: there is none of this name. */
const struct option_sink *option_sinks_find(
    const struct option_sinks *sinks, const char *name);

/* Whether they are of one kind, with the same settings. */
bool option_sink_equal(
    const struct option_sink *a, const struct option_sink *b);

/* The value of setting i as text; a number's is written to number. */
const char *option_sink_value(
    const struct option_sink *sink, size_t i, char number[24]);

void option_sinks_fini(struct option_sinks *sinks);

/* The list, whose key was taken, from the file. KV_INVALID: the message says
 * where, what was given and what is allowed. For options_file.c. */
struct options_reader;
enum kv_status options_sinks_take(struct options_reader *reader);

#define OPTIONS_SINKS_KEY "sinks"

#endif
