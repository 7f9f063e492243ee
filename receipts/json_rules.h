/* Where our JSON is not simply the contract's names; for json.c and
 * json_parse.c. */
#ifndef RECEIPTS_JSON_RULES_H
#define RECEIPTS_JSON_RULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpool/v1/receipts.pb-c.h"
#include "kvpool/v1/stats.pb-c.h"

#define JSON_EVENT_PREFIX "kv_"
#define JSON_EVENT_UNKNOWN "kv_unknown"
#define JSON_TIME_BYTES 40

/* NULL for a value without a name. */
const char *json_enum_name(const ProtobufCEnumDescriptor *type, int value);
/* The reverse; false for a name that is none. */
bool json_enum_value(
    const ProtobufCEnumDescriptor *type, const char *name, int *out);

/* Whether this is a field of Receipt for one of the kinds. */
bool json_is_kind(const ProtobufCFieldDescriptor *field);

/* RFC 3339, with nine digits of the second. */
void json_format_time(char out[JSON_TIME_BYTES], int64_t unix_ns);

/* The derived figures: name and value of number i, from 0; NULL at the end. */
const char *json_derived(
    const Kvpool__V1__PoolStatistics *stats, size_t i, double *value);

#endif
