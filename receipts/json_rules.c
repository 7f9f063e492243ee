#include "receipts/json_rules.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "pool/stats.h"

#define N_ELEMENTS(array) (sizeof(array) / sizeof *(array))

struct enum_names {
    const ProtobufCEnumDescriptor *type;
    const char *const *names; /* by value; NULL where there is none */
    size_t n_names;
};

static const char *const reason_names[] = {
    NULL, "Manual", "Lru", "Ttl", "Quota", "Pressure", "Shutdown"};
static const char *const result_names[] = {
    NULL, "evicted", "not_found", "pinned", "busy", "nothing_to_free"};

static const struct enum_names enums[] = {
    {&kvpool__v1__eviction_reason__descriptor, reason_names,
        N_ELEMENTS(reason_names)},
    {&kvpool__v1__evict_result__descriptor, result_names,
        N_ELEMENTS(result_names)},
};

static const struct enum_names *find_enum(const ProtobufCEnumDescriptor *type)
{
    for (size_t i = 0; i < N_ELEMENTS(enums); i++)
        if (enums[i].type == type)
            return &enums[i];
    return NULL;
}

const char *json_enum_name(const ProtobufCEnumDescriptor *type, int value)
{
    const struct enum_names *found = find_enum(type);

    if (found == NULL || value < 0 || (size_t)value >= found->n_names)
        return NULL;
    return found->names[value];
}

bool json_enum_value(
    const ProtobufCEnumDescriptor *type, const char *name, int *out)
{
    const struct enum_names *found = find_enum(type);

    for (size_t i = 1; found != NULL && i < found->n_names; i++) {
        if (strcmp(found->names[i], name) == 0) {
            *out = (int)i;
            return true;
        }
    }
    return false;
}

bool json_is_kind(const ProtobufCFieldDescriptor *field)
{
    return (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0 &&
           field->quantifier_offset == offsetof(Kvpool__V1__Receipt, kind_case);
}

void json_format_time(char out[JSON_TIME_BYTES], int64_t unix_ns)
{
    int64_t ns = unix_ns % KV_NS_PER_S;
    time_t seconds = (time_t)(unix_ns / KV_NS_PER_S);
    struct tm utc;
    char day[24];

    if (ns < 0) {
        ns += KV_NS_PER_S;
        seconds--;
    }
    gmtime_r(&seconds, &utc);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(out, JSON_TIME_BYTES, "%s.%09dZ", day, (int)ns);
}

const char *json_derived(
    const Kvpool__V1__PoolStatistics *stats, size_t i, double *value)
{
    static const struct {
        const char *name;
        double (*figure)(const struct pool_stats *stats);
    } derived[] = {
        {"memory_utilization", pool_stats_utilization},
        {"hit_rate", pool_stats_hit_rate},
        {"average_session_length", pool_stats_average_session_length},
        {"memory_pool_efficiency", pool_stats_efficiency},
    };
    const struct pool_stats numbers = {
        .total_sessions = stats->total_sessions,
        .used_bytes = stats->used_memory_bytes,
        .cache_hits = stats->cache_hits,
        .cache_misses = stats->cache_misses,
        .session_tokens = stats->session_tokens,
        .total_bytes = stats->total_memory_bytes,
        .free_runs = stats->free_runs,
    };

    if (i >= N_ELEMENTS(derived))
        return NULL;
    *value = derived[i].figure(&numbers);
    return derived[i].name;
}
