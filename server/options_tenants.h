/* The quotas of tenants that the configuration file names, in blocks.
 *
 *     tenants:
 *       - name: acme
 *         soft_blocks: 1000
 *         hard_blocks: 4000
 *
 * Those that are not named have tenant_soft_blocks and tenant_hard_blocks. They
 * have no flag and no variable. */
#ifndef SERVER_OPTIONS_TENANTS_H
#define SERVER_OPTIONS_TENANTS_H

#include "pool/pool.h"
#include "server/options.h"

#define OPTIONS_TENANTS_KEY "tenants"
#define OPTION_MAX_TENANTS 4096

/* 0 is none. */
struct option_quota {
    uint64_t soft_blocks, hard_blocks;
};

struct option_tenant {
    char name[POOL_NAME_BYTES + 1];
    struct option_quota quota;
    uint32_t line; /* where it begins in the file, from 1 */
};

/* Whether the lists say the same, in whatever order. */
bool option_tenants_equal(
    const struct option_tenants *a, const struct option_tenants *b);

/* A hard quota is none, or at least the soft one. *field is its name, the
 * message begins with it. KV_INVALID. */
enum kv_status option_quota_check(const char *field,
    const struct option_quota *quota, struct kv_error *error);

void option_tenants_fini(struct option_tenants *tenants);

/* The list, whose key was taken, from the file. KV_INVALID: the message says
 * where, what was given and what is allowed. For options_file.c. */
struct options_reader;
enum kv_status options_tenants_take(struct options_reader *reader);

#endif
