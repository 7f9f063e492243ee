#include "cli/receipt_filter.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "cli/proto_json.h"
#include "cli/text.h"

/* The number of a value by its name without prefix, in either case; 0: none. */
static int find_value(
    const ProtobufCEnumDescriptor *kind, int last, const char *name)
{
    for (int value = 1; value <= last; value++)
        if (strcasecmp(proto_enum_name(kind, value), name) == 0)
            return value;
    return 0;
}

static enum kv_status refuse_value(const char *option, const char *given,
    const ProtobufCEnumDescriptor *kind, int last, struct kv_error *error)
{
    char allowed[160] = "";
    size_t n = 0;

    for (int value = 1; value <= last; value++)
        n += (size_t)snprintf(allowed + n, sizeof allowed - n, "%s%s",
            value > 1 ? ", " : "", proto_enum_name(kind, value));
    return kv_error_set(error, KV_INVALID, "%s: \"%s\" given, %s allowed",
        option, text_name(given).s, allowed);
}

static enum kv_status fill_kinds(struct receipt_filter *out,
    const struct option_list *names, struct kv_error *error)
{
    const ProtobufCEnumDescriptor *kind = &kvpool__v1__receipt_kind__descriptor;

    for (size_t i = 0; i < names->n; i++) {
        int value = find_value(kind, RECEIPT_FILTER_KINDS, names->items[i]);

        if (value == 0)
            return refuse_value(
                "--kind", names->items[i], kind, RECEIPT_FILTER_KINDS, error);
        out->kinds[i] = (Kvpool__V1__ReceiptKind)value;
    }
    out->message.kinds = out->kinds;
    out->message.n_kinds = names->n;
    return KV_OK;
}

static enum kv_status fill_reasons(struct receipt_filter *out,
    const struct option_list *names, struct kv_error *error)
{
    const ProtobufCEnumDescriptor *kind =
        &kvpool__v1__eviction_reason__descriptor;

    for (size_t i = 0; i < names->n; i++) {
        int value = find_value(kind, RECEIPT_FILTER_REASONS, names->items[i]);

        if (value == 0)
            return refuse_value("--reason", names->items[i], kind,
                RECEIPT_FILTER_REASONS, error);
        out->reasons[i] = (Kvpool__V1__EvictionReason)value;
    }
    out->message.reasons = out->reasons;
    out->message.n_reasons = names->n;
    return KV_OK;
}

static enum kv_status fill_sessions(struct receipt_filter *out,
    const struct option_values *values, struct kv_error *error)
{
    if (values->tenants.n > 1)
        return kv_error_set(error, KV_INVALID,
            "--tenant: %zu given, 1 allowed where there is a --session",
            values->tenants.n);
    for (size_t i = 0; i < values->sessions.n; i++) {
        kvpool__v1__session_key__init(&out->keys[i]);
        out->keys[i].session_id = (char *)values->sessions.items[i];
        if (values->tenants.n > 0)
            out->keys[i].tenant = (char *)values->tenants.items[0];
        out->key_list[i] = &out->keys[i];
    }
    out->message.sessions = out->key_list;
    out->message.n_sessions = values->sessions.n;
    return KV_OK;
}

static void fill_tenants(
    struct receipt_filter *out, const struct option_list *names)
{
    for (size_t i = 0; i < names->n; i++)
        out->tenants[i] = (char *)names->items[i];
    out->message.tenants = out->tenants;
    out->message.n_tenants = names->n;
}

enum kv_status receipt_filter_fill(struct receipt_filter *out,
    const struct option_values *values, struct kv_error *error)
{
    enum kv_status status;

    kvpool__v1__receipt_filter__init(&out->message);
    out->is_set = values->kinds.n + values->reasons.n + values->sessions.n +
                      values->tenants.n >
                  0;
    status = fill_kinds(out, &values->kinds, error);
    if (status == KV_OK)
        status = fill_reasons(out, &values->reasons, error);
    if (status != KV_OK)
        return status;
    if (values->sessions.n > 0)
        return fill_sessions(out, values, error);
    fill_tenants(out, &values->tenants);
    return KV_OK;
}
