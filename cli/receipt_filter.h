/* Which receipts a person asks for: --kind, --reason, --session and --tenant as
 * the contract's filter. */
#ifndef CLI_RECEIPT_FILTER_H
#define CLI_RECEIPT_FILTER_H

#include "cli/option.h"
#include "kvpool/v1/pool_service.pb-c.h"

#define RECEIPT_FILTER_KINDS 7
#define RECEIPT_FILTER_REASONS 6
#define RECEIPT_FILTER_NAMES 64

/* The caller's memory, not to be moved; texts are borrowed from argv. */
struct receipt_filter {
    Kvpool__V1__ReceiptFilter message;
    Kvpool__V1__ReceiptKind kinds[RECEIPT_FILTER_KINDS];
    Kvpool__V1__EvictionReason reasons[RECEIPT_FILTER_REASONS];
    Kvpool__V1__SessionKey keys[RECEIPT_FILTER_NAMES];
    Kvpool__V1__SessionKey *key_list[RECEIPT_FILTER_NAMES];
    char *tenants[RECEIPT_FILTER_NAMES];
    bool is_set; /* whether anything was asked for */
};

/* Sessions are those of the tenant, if one is given beside them. KV_INVALID:
 * *error names the option, what was given and what is allowed. */
enum kv_status receipt_filter_fill(struct receipt_filter *out,
    const struct option_values *values, struct kv_error *error);

#endif
