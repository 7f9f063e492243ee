#include "receipts/json.h"

#include <stdio.h>

#include "receipts/json_message.h"
#include "receipts/json_rules.h"

/* The fields come from the contract's own descriptors, so a new kind needs no
 * line here; json_rules.c has the few exceptions. */

const char *eviction_reason_name(Kvpool__V1__EvictionReason reason)
{
    const char *name =
        json_enum_name(&kvpool__v1__eviction_reason__descriptor, (int)reason);

    return name != NULL ? name : "Unknown";
}

/* Statistics have the figures that follow from theirs. */
static bool put_derived(json_t *object, const ProtobufCMessage *message)
{
    const Kvpool__V1__PoolStatistics *stats =
        (const Kvpool__V1__PoolStatistics *)message;
    double value;
    const char *name;

    if (message->descriptor != &kvpool__v1__pool_statistics__descriptor)
        return true;
    for (size_t i = 0; (name = json_derived(stats, i, &value)) != NULL; i++)
        if (!json_put(object, name, json_real(value)))
            return false;
    return true;
}

static const struct json_style receipt_style = {
    .enum_name = json_enum_name, .derive = put_derived};

json_t *pool_statistics_to_json(const Kvpool__V1__PoolStatistics *stats)
{
    return json_message(&stats->base, &receipt_style);
}

static const ProtobufCFieldDescriptor *find_kind(
    const Kvpool__V1__Receipt *receipt)
{
    const ProtobufCMessageDescriptor *type = receipt->base.descriptor;

    for (unsigned i = 0; i < type->n_fields; i++)
        if (json_is_kind(&type->fields[i]) &&
            json_is_present(&receipt->base, &type->fields[i]))
            return &type->fields[i];
    return NULL;
}

static bool put_event(json_t *object, const ProtobufCFieldDescriptor *kind)
{
    char event[64];

    if (kind == NULL)
        return json_put(object, "event", json_string(JSON_EVENT_UNKNOWN));
    snprintf(event, sizeof event, JSON_EVENT_PREFIX "%s", kind->name);
    return json_put(object, "event", json_string(event));
}

static bool put_time(json_t *object, int64_t unix_ns)
{
    char time[JSON_TIME_BYTES];

    json_format_time(time, unix_ns);
    return json_put(object, "time", json_string(time));
}

static bool put_envelope(json_t *object, const Kvpool__V1__Receipt *receipt)
{
    const ProtobufCMessageDescriptor *type = receipt->base.descriptor;

    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        bool is_time =
            field->offset == offsetof(Kvpool__V1__Receipt, time_unix_ns);

        if (json_is_kind(field))
            continue;
        if (!json_put_field(object, &receipt->base, field, &receipt_style) ||
            (is_time && !put_time(object, receipt->time_unix_ns)))
            return false;
    }
    return true;
}

json_t *receipt_to_json(const Kvpool__V1__Receipt *receipt)
{
    const ProtobufCFieldDescriptor *kind = find_kind(receipt);
    json_t *object = json_object();

    if (object == NULL)
        return NULL;
    if (!put_event(object, kind) || !put_envelope(object, receipt))
        goto free_object;
    if (kind != NULL && !json_put_message(object,
                            *(const ProtobufCMessage *const *)(const void
                                    *)((const char *)receipt + kind->offset),
                            &receipt_style))
        goto free_object;
    return object;

free_object:
    json_decref(object);
    return NULL;
}
