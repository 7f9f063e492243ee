/* Options of commands: one table of them generates both parsing and help.
 *
 * Every text is checked here, before anything is sent: UTF-8, length, and, for
 * names, no control characters. */
#ifndef CLI_OPTION_H
#define CLI_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

#define OPTION_LIST_MAX 256

/* The values of an option that may be repeated; borrowed from argv. */
struct option_list {
    const char *items[OPTION_LIST_MAX];
    size_t n;
};

/* Where 0 is a value like others. */
struct option_duration {
    int64_t ns;
    bool given;
};

struct option_number {
    uint64_t n;
    bool given;
};

enum option_format {
    OPTION_FORMAT_TEXT,
    OPTION_FORMAT_JSON,
    OPTION_FORMAT_JSONL
};

/* In the order of their names in the table. */
enum option_wait {
    OPTION_WAIT_UNSET,
    OPTION_WAIT_APPLIED,
    OPTION_WAIT_DURABLE
};

/* All options of all commands. Texts are borrowed from argv and NULL where the
 * option was not given; numbers are then 0. */
struct option_values {
    const char *server;
    int format; /* enum option_format */
    int64_t timeout_ns;
    bool verbose, help, version;

    const char *tenant;
    struct option_list sessions; /* --session */
    uint64_t limit;

    uint64_t max_tokens, top_k, seed, penalty_window, top_logprobs;
    double temperature, top_p, min_p;
    double repetition_penalty, frequency_penalty, presence_penalty;
    const char *logit_bias;
    bool logprobs, ignore_eos, prefill_only;
    struct option_list stops;
    const char *tokens;
    struct option_number continue_from;
    bool add_special, parse_special, with_special, with_pieces;

    bool with_sessions;    /* snapshot --sessions */
    bool with_histograms;  /* snapshot --histograms */
    bool with_tenants;     /* snapshot --tenants */
    bool with_sinks;       /* snapshot --sinks */
    bool with_subscribers; /* snapshot --subscribers */
    bool with_block_map;   /* snapshot --block-map */
    bool wait_serving;     /* ping --wait */

    const char *prefix; /* sessions --prefix */
    int order;          /* sessions --order, SessionOrder */
    int state;          /* sessions --state, SessionState */
    int64_t min_idle_ns, min_age_ns;
    uint64_t min_bytes;

    bool all, preempt, forget, dry_run;
    const char *prefix_tokens, *request_id; /* evict */
    int64_t idle_ns;
    uint64_t bytes;
    int wait; /* evict --wait, enum option_wait */
    uint64_t max_sessions;

    struct option_duration idle_ttl, absolute_ttl, pin; /* retain */
    struct option_number priority;
    const char *lease;

    const char *from, *file;
    uint64_t max_batch;
    bool no_reconnect, lossy;
    struct option_list kinds, reasons, tenants; /* receipts tail */

    const char *key, *witness_key;
    const char *old_file, *new_file, *out_file; /* --old, --new, --out */
    bool stats;

    uint64_t first, last; /* export --from, --to; 0: not given */

    const char *signing_key, *name, *state_file; /* witness */
    bool watch;
    int64_t interval_ns;

    const char **arguments; /* what is no option */
    size_t n_arguments;
};

enum option_kind {
    OPTION_FLAG,     /* bool */
    OPTION_NAME,     /* const char *: min to max bytes, no control characters */
    OPTION_TEXT,     /* const char *: min to max bytes */
    OPTION_COUNT,    /* uint64_t: min to max */
    OPTION_REAL,     /* double: min to max */
    OPTION_SIGNED,   /* double: -max to max */
    OPTION_DURATION, /* int64_t */
    OPTION_SET_DURATION, /* struct option_duration */
    OPTION_SET_COUNT,    /* struct option_number: min to max */
    OPTION_CHOICE,       /* int: place in `value`, from first_choice */
};

struct option_spec {
    const char *name;
    char letter; /* '\0': none */
    enum option_kind kind;
    const char *value; /* as help shows it; of a CHOICE "one|two" */
    uint64_t min, max;
    int first_choice;
    size_t max_times; /* 0: given again, it replaces; else a struct option_list
                         of that many NAMEs or TEXTs */
    size_t offset;    /* in struct option_values */
    const char *help; /* lines after the first are indented */
};

struct option_table {
    const struct option_spec *specs;
    size_t n;
};

/* Reads the option at args[*at] and its value into *values, and moves *at
 * behind them. KV_NOT_FOUND: none of the tables has it; KV_INVALID: its value
 * is missing or not allowed. *error says so in words. */
enum kv_status option_parse(const struct option_table *tables, size_t n_tables,
    char *const *args, size_t n_args, size_t *at, struct option_values *values,
    struct kv_error *error);

/* Whether this argument is an option ("-" alone is not). */
bool option_is(const char *arg);

/* Checks a text that came otherwise: what names it in the error. */
enum kv_status option_check_text(const char *what, const char *text,
    size_t n_bytes, uint64_t min, uint64_t max, bool is_name,
    struct kv_error *error);

/* "  -o, --output text|json|jsonl   help", a line or more for each. */
void option_help(FILE *out, const struct option_table *table);

/* The same two columns for anything else. */
void option_help_line(FILE *out, const char *left, const char *help);

#endif
