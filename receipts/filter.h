/* Which receipts a reader wants, decided on their encoded bytes.
 *
 * A filter is opened once for a stream and asked for each receipt that passes.
 * It looks at the few tags that it needs, in place: nothing is unpacked and
 * nothing is allocated, so that a reader of a few among many costs some tens
 * of nanoseconds for each that it does not want.
 *
 * Conditions that are set must all hold. A receipt without the property asked
 * for does not match: evictions, batches and recomputations have a reason;
 * evictions, allocations, releases and recomputations have a session and a
 * tenant.
 *
 * Thread: any; a filter that was opened does not change. */
#ifndef RECEIPTS_FILTER_H
#define RECEIPTS_FILTER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "kvpool/v1/pool_service.pb-c.h"

struct filter;

/* Copies what it needs. *out is NULL where nothing is asked for: every receipt
 * matches then. Kinds and reasons that do not exist match nothing.
 * KV_NO_MEMORY. */
enum kv_status filter_open(
    struct filter **out, const Kvpool__V1__ReceiptFilter *conditions);
void filter_close(struct filter *filter); /* NULL is fine */

/* Whether it lets this encoded Receipt through; NULL lets all. Bytes that are
 * no receipt are let through by NULL only; nothing beyond them is read. */
bool filter_matches(
    const struct filter *filter, const unsigned char *bytes, size_t n_bytes);

#endif
