/* Answers of the server in words and tables for a person. What came from the
 * server is made harmless; absent parts are left out. Any thread. */
#ifndef CLI_VIEW_H
#define CLI_VIEW_H

#include <stdio.h>

#include "base/status.h"
#include "cli/table.h"
#include "kvpool/v1/inference_service.pb-c.h"
#include "kvpool/v1/pool_service.pb-c.h"

/* The model, its memory, the limits of requests. */
void view_model(FILE *out, const Kvpool__V1__Model *model);

/* Where receipts are kept, and how far they are. */
void view_ledger(FILE *out, const Kvpool__V1__PoolSnapshot *snapshot);

/* The totals of the pool, as sizes and as ratios. */
void view_snapshot(FILE *out, const Kvpool__V1__PoolSnapshot *snapshot);

/* A table of sessions: begin, add any number of times and flush between as
 * pages come, table_fini. */
void view_sessions_begin(struct table *table);
void view_sessions_add(struct table *table, const Kvpool__V1__Session *session);

/* Each distribution that is there, by mean and bounds of quantiles. */
void view_histograms(FILE *out, const Kvpool__V1__Histograms *histograms);

/* A table of where receipts go. KV_NO_MEMORY. */
enum kv_status view_sinks(FILE *out, const Kvpool__V1__PoolSnapshot *snapshot);
enum kv_status view_tenants(
    FILE *out, const Kvpool__V1__PoolSnapshot *snapshot);

/* The arena, a row for each run of blocks in one state. KV_NO_MEMORY. */
enum kv_status view_block_map(
    FILE *out, const Kvpool__V1__PoolSnapshot *snapshot);

/* The streams of receipts that are open, as a table. KV_NO_MEMORY. */
enum kv_status view_subscribers(
    FILE *out, const Kvpool__V1__PoolSnapshot *snapshot);

/* What Evict did: outcomes, sums, the receipts' range. KV_NO_MEMORY. */
enum kv_status view_evicted(FILE *out, const Kvpool__V1__EvictResponse *answer);

/* "prompt 12 (8 cached) + 20 tokens in 1.2 s: ..." */
void view_finished(FILE *out, const Kvpool__V1__GenerateFinished *finished);

#endif
