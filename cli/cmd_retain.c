/* retain: sets how long sessions stay, and shows what is in force then, or
 * without a setting what is in force now. */
#include <inttypes.h>
#include <string.h>

#include "cli/command.h"
#include "cli/proto_json.h"
#include "cli/table.h"
#include "kvpool/v1/pool_service.pb-c.h"

#define MAX_LEASE_ID 64

/* A request and the memory of its parts: every session gets the same. */
struct retain {
    Kvpool__V1__SetRetentionRequest request;
    Kvpool__V1__RetentionChange changes[OPTION_LIST_MAX];
    Kvpool__V1__RetentionChange *change_list[OPTION_LIST_MAX];
    Kvpool__V1__SessionKey keys[OPTION_LIST_MAX];
    Kvpool__V1__RetentionSettings settings;
    Kvpool__V1__DurationSetting idle_ttl, absolute_ttl, pin;
    Kvpool__V1__PrioritySetting priority;
    Kvpool__V1__LeaseSetting lease;
    char lease_id[MAX_LEASE_ID + 1];
};

/* ---- the request */

static Kvpool__V1__DurationSetting *set_duration(
    Kvpool__V1__DurationSetting *setting, const struct option_duration *given)
{
    kvpool__v1__duration_setting__init(setting);
    setting->duration_ns = given->ns;
    return given->given ? setting : NULL;
}

static void fill_settings(
    struct retain *retain, const struct option_values *values)
{
    Kvpool__V1__RetentionSettings *settings = &retain->settings;

    kvpool__v1__retention_settings__init(settings);
    settings->idle_ttl = set_duration(&retain->idle_ttl, &values->idle_ttl);
    settings->absolute_ttl =
        set_duration(&retain->absolute_ttl, &values->absolute_ttl);
    settings->pin = set_duration(&retain->pin, &values->pin);
    kvpool__v1__priority_setting__init(&retain->priority);
    retain->priority.priority = (uint32_t)values->priority.n;
    if (values->priority.given)
        settings->priority = &retain->priority;
    if (values->lease != NULL)
        settings->lease = &retain->lease;
}

/* NAME=DURATION; a name may have a '=' in it. */
static enum kv_status parse_lease(
    struct retain *retain, const char *text, struct kv_error *error)
{
    const char *end = text != NULL ? strrchr(text, '=') : NULL;
    size_t n = end != NULL ? (size_t)(end - text) : 0;

    kvpool__v1__lease_setting__init(&retain->lease);
    if (text == NULL)
        return KV_OK;
    if (n < 1 || n > MAX_LEASE_ID ||
        !text_parse_duration(end + 1, &retain->lease.duration_ns))
        return kv_error_set(error, KV_INVALID,
            "--lease: \"%s\" given, a name of 1 to %d bytes, = and a duration "
            "allowed, as reader-1=30s",
            text_name(text).s, MAX_LEASE_ID);
    memcpy(retain->lease_id, text, n);
    retain->lease_id[n] = '\0';
    retain->lease.lease_id = retain->lease_id;
    return KV_OK;
}

static void fill(struct retain *retain, const struct option_values *values)
{
    fill_settings(retain, values);
    kvpool__v1__set_retention_request__init(&retain->request);
    for (size_t i = 0; i < values->sessions.n; i++) {
        kvpool__v1__session_key__init(&retain->keys[i]);
        retain->keys[i].session_id = (char *)values->sessions.items[i];
        if (values->tenant != NULL)
            retain->keys[i].tenant = (char *)values->tenant;
        kvpool__v1__retention_change__init(&retain->changes[i]);
        retain->changes[i].session = &retain->keys[i];
        retain->changes[i].settings = &retain->settings;
        retain->change_list[i] = &retain->changes[i];
    }
    retain->request.changes = retain->change_list;
    retain->request.n_changes = values->sessions.n;
}

/* ---- the answer */

static struct text limit_text(int64_t duration_ns)
{
    static const struct text none = {"-"};

    return duration_ns == 0 ? none : text_duration(duration_ns);
}

static struct text end_text(int64_t unix_ns)
{
    static const struct text none = {"-"};

    return unix_ns == 0 ? none : text_time(unix_ns);
}

/* Those that run: the one that ends last, and how many there are besides. */
static void add_leases(
    struct table *table, const Kvpool__V1__Retention *retention)
{
    const Kvpool__V1__Lease *last = NULL;

    for (size_t i = 0; i < retention->n_leases; i++)
        if (last == NULL ||
            retention->leases[i]->expires_unix_ns > last->expires_unix_ns)
            last = retention->leases[i];
    if (last == NULL)
        table_cell(table, "-");
    else if (retention->n_leases == 1)
        table_cell(table, "%s until %s", text_name(last->lease_id).s,
            text_time(last->expires_unix_ns).s);
    else
        table_cell(table, "%s until %s, %zu more", text_name(last->lease_id).s,
            text_time(last->expires_unix_ns).s, retention->n_leases - 1);
}

static void add_retained(
    struct table *table, const Kvpool__V1__RetentionOutcome *outcome)
{
    static const Kvpool__V1__Retention none = KVPOOL__V1__RETENTION__INIT;
    const Kvpool__V1__SessionKey *key = outcome->session;
    const Kvpool__V1__Retention *retention =
        outcome->retention != NULL ? outcome->retention : &none;

    table_cell(table, "%s",
        key == NULL || key->tenant[0] == '\0' ? "-" : text_name(key->tenant).s);
    table_cell(table, "%s", key == NULL ? "-" : text_name(key->session_id).s);
    table_cell(table, "%s",
        proto_enum_name(
            &kvpool__v1__retention_result__descriptor, (int)outcome->result));
    table_cell(table, "%s", limit_text(retention->idle_ttl_ns).s);
    table_cell(table, "%s", limit_text(retention->absolute_ttl_ns).s);
    if (outcome->retention != NULL)
        table_cell(table, "%" PRIu32, retention->priority);
    else
        table_cell(table, "-");
    table_cell(table, "%s", end_text(retention->pin_expires_unix_ns).s);
    add_leases(table, retention);
    table_cell(table, "%s",
        outcome->detail[0] != '\0' ? text_name(outcome->detail).s : "-");
}

/* KV_NO_MEMORY. */
static enum kv_status view_retained(
    FILE *out, const Kvpool__V1__SetRetentionResponse *answer)
{
    static const char *const titles[] = {"TENANT", "SESSION", "RESULT",
        ">IDLE TTL", ">TTL", ">PRIORITY", "PINNED UNTIL", "LEASES", "DETAIL"};
    struct table table = {
        .titles = titles, .n_columns = sizeof titles / sizeof *titles};
    enum kv_status status;

    for (size_t i = 0; i < answer->n_outcomes; i++)
        add_retained(&table, answer->outcomes[i]);
    status = table_flush(&table, out);
    table_fini(&table);
    return status;
}

static enum cli_exit print(
    struct cli *cli, const Kvpool__V1__SetRetentionResponse *answer)
{
    if (!cli_is_text(cli))
        return cli_print_message(cli, &answer->base);
    return view_retained(cli->out, answer) == KV_OK
               ? CLI_OK
               : cli_fail(cli, CLI_FAILED, "out of memory");
}

/* Whether it is in force for every session, if perhaps for less than asked. */
static bool is_in_force(const Kvpool__V1__SetRetentionResponse *answer)
{
    for (size_t i = 0; i < answer->n_outcomes; i++) {
        Kvpool__V1__RetentionResult result = answer->outcomes[i]->result;

        if (result != KVPOOL__V1__RETENTION_RESULT__RETENTION_RESULT_ACCEPTED &&
            result != KVPOOL__V1__RETENTION_RESULT__RETENTION_RESULT_CLIPPED)
            return false;
    }
    return true;
}

static enum cli_exit retain_and_show(
    struct cli *cli, const struct retain *retain)
{
    enum cli_exit code = CLI_OK;
    Kvpool__V1__SetRetentionResponse *answer =
        cli_call(cli, CLI_POOL_SERVICE "SetRetention", &retain->request.base,
            &kvpool__v1__set_retention_response__descriptor, &code);

    if (answer == NULL)
        return code;
    code = print(cli, answer);
    if (code == CLI_OK && !is_in_force(answer))
        code = CLI_NOTHING;
    cli_free_answer(answer);
    return code;
}

enum cli_exit cmd_retain(struct cli *cli)
{
    struct retain retain;
    struct kv_error error;

    if (cli->values.sessions.n == 0) {
        kv_error_set(&error, KV_INVALID,
            "--session is missing: whose retention, up to %d times",
            OPTION_LIST_MAX);
        return cli_fail_usage(cli, &error);
    }
    if (parse_lease(&retain, cli->values.lease, &error) != KV_OK)
        return cli_fail_usage(cli, &error);
    fill(&retain, &cli->values);
    return retain_and_show(cli, &retain);
}
