#include "server/options_tenants.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/heap.h"
#include "base/utf8.h"
#include "server/options_list.h"

/* A quota in an entry. */
static const struct option_row quota_rows[] = {
    {"soft_blocks", OPTION_UINT, offsetof(struct option_quota, soft_blocks),
        "0", 0, INT32_MAX, "blocks", ""},
    {"hard_blocks", OPTION_UINT, offsetof(struct option_quota, hard_blocks),
        "0", 0, INT32_MAX, "blocks", ""},
};

#define N_QUOTAS (sizeof quota_rows / sizeof *quota_rows)

enum kv_status option_quota_check(
    const char *field, const struct option_quota *quota, struct kv_error *error)
{
    if (quota->hard_blocks == 0 || quota->hard_blocks >= quota->soft_blocks)
        return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "%s: given %" PRIu64 ", allowed are 0 and at least the soft quota, "
        "which is %" PRIu64,
        field, quota->hard_blocks, quota->soft_blocks);
}

/* ---- an entry */

static const struct option_tenant *find(
    const struct option_tenants *tenants, const char *name)
{
    for (size_t i = 0; i < tenants->n; i++)
        if (strcmp(tenants->list[i].name, name) == 0)
            return &tenants->list[i];
    return NULL;
}

static enum kv_status take_name(struct options_reader *reader,
    const struct options_entry *entry, struct option_tenant *tenant)
{
    const yaml_event_t *value = options_entry_find(entry, "name", NULL);
    struct option_row row = options_entry_row(
        "name", "a tenant of at most 128 bytes; the default tenant is \"\"");
    const struct option_tenant *other;
    enum kv_status status;

    if (value == NULL)
        return options_entry_refuse_missing(
            reader, entry, "name", "is a tenant");
    status = reader_check_scalar(reader, &row, value);
    if (status != KV_OK)
        return status;
    if (value->data.scalar.length > POOL_NAME_BYTES ||
        kv_utf8_has_control(reader_text(value), value->data.scalar.length))
        return reader_refuse_value(reader, &row, value,
            option_quote(reader_text(value), value->data.scalar.length).text);
    other = find(&reader->options->tenants, reader_text(value));
    if (other != NULL)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: given %s a second time, allowed is once; the first is on "
            "line %" PRIu32,
            reader_place_of_key(reader, value->start_mark, &row).text,
            option_quote(reader_text(value), value->data.scalar.length).text,
            other->line);
    memcpy(tenant->name, reader_text(value), value->data.scalar.length);
    return KV_OK;
}

static enum kv_status take_quota(struct options_reader *reader,
    const struct options_entry *entry, const struct option_row *row,
    struct option_tenant *tenant)
{
    const yaml_event_t *value = options_entry_find(entry, row->name, NULL);
    enum kv_status status;

    if (value == NULL)
        return KV_OK;
    status = reader_check_scalar(reader, row, value);
    if (status != KV_OK)
        return status;
    return option_read(&tenant->quota, row,
        reader_place_of_key(reader, value->start_mark, row).text,
        reader_text(value), reader->error);
}

static enum kv_status check_keys(
    struct options_reader *reader, const struct options_entry *entry)
{
    for (size_t i = 0; i < entry->n_pairs; i++) {
        const yaml_event_t *key = &entry->pairs[i].key;
        bool is_known = strcmp(reader_text(key), "name") == 0;

        for (size_t j = 0; j < N_QUOTAS; j++)
            is_known |= strcmp(reader_text(key), quota_rows[j].name) == 0;
        if (!is_known)
            return kv_error_set(reader->error, KV_INVALID,
                "%s: unknown setting %s of a tenant; allowed are name, "
                "soft_blocks, hard_blocks",
                reader_place(reader, key->start_mark).text,
                option_quote(reader_text(key), key->data.scalar.length).text);
    }
    return KV_OK;
}

static enum kv_status keep(
    struct options_reader *reader, const struct option_tenant *tenant)
{
    struct option_tenants *tenants = &reader->options->tenants;
    struct option_tenant *longer;

    if (tenants->n == OPTION_MAX_TENANTS)
        return kv_error_set(reader->error, KV_INVALID,
            "%s: line %" PRIu32 ": %s: given one more than the %d that are "
            "allowed",
            reader->path, tenant->line, OPTIONS_TENANTS_KEY,
            OPTION_MAX_TENANTS);
    longer = kv_realloc(tenants->list, (tenants->n + 1) * sizeof *longer);
    if (longer == NULL)
        return reader_refuse_memory(reader);
    tenants->list = longer;
    tenants->list[tenants->n++] = *tenant;
    return KV_OK;
}

static enum kv_status take_entry(
    struct options_reader *reader, const struct options_entry *entry)
{
    struct option_tenant tenant = {.line = (uint32_t)entry->mark.line + 1};
    enum kv_status status = check_keys(reader, entry);
    struct kv_error why = {0};

    if (status == KV_OK)
        status = take_name(reader, entry, &tenant);
    for (size_t i = 0; i < N_QUOTAS && status == KV_OK; i++)
        status = take_quota(reader, entry, &quota_rows[i], &tenant);
    if (status != KV_OK)
        return status;
    status = option_quota_check("hard_blocks", &tenant.quota, &why);
    if (status != KV_OK)
        return kv_error_set(reader->error, status, "%s: %s",
            reader_place(reader, entry->mark).text, why.text);
    return keep(reader, &tenant);
}

enum kv_status options_tenants_take(struct options_reader *reader)
{
    static const struct options_list_kind kind = {
        .key = OPTIONS_TENANTS_KEY,
        .allowed = "a list of tenants, each `- name: NAME` with soft_blocks "
                   "and hard_blocks",
        .take = take_entry,
    };

    return options_list_take(reader, &kind);
}

/* ---- what they say */

bool option_tenants_equal(
    const struct option_tenants *a, const struct option_tenants *b)
{
    for (size_t i = 0; i < a->n && a->n == b->n; i++) {
        const struct option_tenant *one = &a->list[i];
        const struct option_tenant *other = find(b, one->name);

        if (other == NULL ||
            other->quota.soft_blocks != one->quota.soft_blocks ||
            other->quota.hard_blocks != one->quota.hard_blocks)
            return false;
    }
    return a->n == b->n;
}

void option_tenants_fini(struct option_tenants *tenants)
{
    kv_free(tenants->list);
    *tenants = (struct option_tenants){0};
}
