/* A new configuration for a server that runs.
 *
 *   parse all anew, check ──> quotas ──> sinks ──> receipts_log, log_level
 *     │ wrong: nothing is         │ no memory, or one cannot be opened:
 *     v changed, and why          v nothing is changed, and why
 *
 * What else differs is named in the log as needing a restart; the options in
 * force, and their digest, stay what they were there. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "server/options_sinks.h"
#include "server/options_table.h"
#include "server/options_tenants.h"
#include "server/quotas.h"
#include "server/server.h"

/* Names of what changed, for the receipt. */
struct changes {
    const char *names[LEDGER_MAX_CHANGES];
    char texts[LEDGER_MAX_CHANGES][SINK_NAME_BYTES + 8];
    size_t n;
    uint8_t previous_digest[32];
};

static void add_change(
    struct changes *changes, const char *of, const char *name)
{
    char *text;

    if (changes->n == LEDGER_MAX_CHANGES)
        return;
    text = changes->texts[changes->n];
    snprintf(text, sizeof changes->texts[0], "%s%s", of, name);
    changes->names[changes->n++] = text;
}

/* ---- what differs */

static void compare_sinks(struct changes *changes,
    const struct option_sinks *before, const struct option_sinks *after)
{
    for (size_t i = 0; i < before->n; i++) {
        const struct option_sink *sink = &before->list[i];
        const struct option_sink *other = option_sinks_find(after, sink->name);

        if (other == NULL || !option_sink_equal(sink, other))
            add_change(changes, "sinks.", sink->name);
    }
    for (size_t i = 0; i < after->n; i++) {
        if (option_sinks_find(before, after->list[i].name) == NULL)
            add_change(changes, "sinks.", after->list[i].name);
    }
}

static bool is_reloadable(const struct option_row *row)
{
    static const char *const names[] = {"log_level", "receipts_log",
        "tenant_soft_blocks", "tenant_hard_blocks"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(row->name, names[i]) == 0)
            return true;
    return false;
}

static bool differs(const struct option_row *row, const struct options *before,
    const struct options *after)
{
    char numbers[2][24];

    return strcmp(option_value(row, before, numbers[0]),
               option_value(row, after, numbers[1])) != 0;
}

static void compare_options(struct changes *changes,
    const struct options *before, const struct options *after)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (is_reloadable(&option_rows[i]) &&
            differs(&option_rows[i], before, after))
            add_change(changes, "", option_rows[i].name);
    }
}

static void log_restarts(
    const struct options *before, const struct options *after)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (!is_reloadable(&option_rows[i]) &&
            differs(&option_rows[i], before, after))
            kv_log(KV_LOG_WARN, SERVER_LOG_TARGET,
                "an option that changed needs a restart",
                KV_LOG_TEXT("option", option_rows[i].name));
    }
}

/* ---- taking it */

/* The text of a choice that lives as long as the program. */
static void take_log_level(struct options *options, const char *level)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    enum kv_log_level value;

    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (strcmp(levels[i], level) == 0)
            options->log_level = levels[i];
    }
    if (kv_log_level_parse(level, &value))
        kv_log_set_level(value);
}

/* The quotas of the one become those of the other. */
static void swap_quotas(struct options *a, struct options *b)
{
    const struct option_tenants tenants = a->tenants;
    const struct option_quota quota = {
        a->tenant_soft_blocks, a->tenant_hard_blocks};

    a->tenants = b->tenants;
    a->tenant_soft_blocks = b->tenant_soft_blocks;
    a->tenant_hard_blocks = b->tenant_hard_blocks;
    b->tenants = tenants;
    b->tenant_soft_blocks = quota.soft_blocks;
    b->tenant_hard_blocks = quota.hard_blocks;
}

static enum kv_status take(struct server *server, struct options *fresh,
    const char *requested_by, struct kv_error *error)
{
    struct options *options = server->options;
    struct changes changes = {.n = 0};
    enum kv_status status = server_check_options(fresh, error);

    if (status != KV_OK)
        return status;
    options_digest(options, changes.previous_digest);
    compare_options(&changes, options, fresh);
    compare_sinks(&changes, &options->sinks, &fresh->sinks);
    if (!option_tenants_equal(&options->tenants, &fresh->tenants))
        add_change(&changes, "", OPTIONS_TENANTS_KEY);
    log_restarts(options, fresh);
    if (quotas_apply(fresh, server->pool) != KV_OK)
        return kv_error_set(
            error, KV_NO_MEMORY, "no memory for the quotas of tenants");
    status = recorder_reload(server->recorder, options, fresh, error);
    if (status != KV_OK) {
        (void)quotas_apply(options, server->pool);
        return status;
    }
    swap_quotas(options, fresh);
    take_log_level(options, fresh->log_level);
    if (changes.n > 0)
        recorder_issue_configuration_change(server->recorder, options,
            changes.previous_digest, changes.names, changes.n, requested_by);
    kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "configuration reloaded",
        KV_LOG_TEXT("requested_by", requested_by),
        KV_LOG_UINT("changes", changes.n));
    return KV_OK;
}

/* A pipe has given what it had: again it would be empty, or hold us for ever.
 */
static enum kv_status check_file(const char *path, struct kv_error *error)
{
    struct stat file;

    if (path[0] == '\0' || stat(path, &file) != 0 || S_ISREG(file.st_mode))
        return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "%s: no regular file, only one of these can be read again", path);
}

void server_reload(struct server *server, const char *requested_by)
{
    struct options fresh = {0};
    struct kv_error error = {0};
    enum kv_status status = check_file(server->options->config, &error);

    if (status == KV_OK)
        status = options_parse_again(server->options, &fresh, &error);
    if (status == KV_OK)
        status = take(server, &fresh, requested_by, &error);
    options_fini(&fresh);
    if (status != KV_OK)
        kv_log(KV_LOG_ERROR, SERVER_LOG_TARGET,
            "the configuration stays as it was",
            KV_LOG_TEXT("requested_by", requested_by),
            KV_LOG_TEXT("error", error.text));
}
