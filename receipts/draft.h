/* A receipt on its way into the ledger: what the pool told, laid out as the
 * message of the contract. Everything is copied or borrowed until the receipt
 * is encoded, in the same turn; nothing is allocated.
 *
 * Texts longer than DRAFT_TEXT_BYTES (a model's name comes from its file) are
 * cut at a character, so that a receipt always fits its record. */
#ifndef RECEIPTS_DRAFT_H
#define RECEIPTS_DRAFT_H

#include "kvpool/v1/receipts.pb-c.h"
#include "pool/observer.h"
#include "receipts/ledger.h"
#include "receipts/performance.h"

#define DRAFT_TEXT_BYTES 256

/* The caller's memory, to be used again and again; about 140 KB. */
struct draft {
    Kvpool__V1__Receipt receipt; /* kind and trace_id are set, the rest of the
                                    envelope is the ledger's */
    union {
        Kvpool__V1__EvictionReceipt eviction;
        Kvpool__V1__EvictionBatchReceipt batch;
        Kvpool__V1__PoolSnapshotReceipt snapshot;
        Kvpool__V1__LifecycleReceipt lifecycle;
        Kvpool__V1__AllocationReceipt allocation;
        Kvpool__V1__ReleaseReceipt release;
        Kvpool__V1__RecomputationReceipt recomputation;
    } kind;
    Kvpool__V1__PoolStatistics before, after;
    Kvpool__V1__ReceiptPart part;
    Kvpool__V1__SessionKey forced_by;
    Kvpool__V1__PerformanceReport performance;
    Kvpool__V1__ReasonCount reasons[POOL_REASON_END];
    Kvpool__V1__ReasonCount *reason_list[POOL_REASON_END];
    Kvpool__V1__TierUsage tier;
    Kvpool__V1__TierUsage *tier_list[1];
    Kvpool__V1__Boot boot;
    Kvpool__V1__Drain drain;
    Kvpool__V1__SinkGap sink_gap;
    Kvpool__V1__ConfigurationChange configuration_change;
    Kvpool__V1__LossAccepted loss;
    Kvpool__V1__Extent extents[POOL_PART_EXTENTS];
    Kvpool__V1__Extent *extent_list[POOL_PART_EXTENTS];
    Kvpool__V1__SealedBlock sealed[POOL_PART_SEALED];
    Kvpool__V1__SealedBlock *sealed_list[POOL_PART_SEALED];
    char texts[4][DRAFT_TEXT_BYTES + 1];
};

void draft_eviction(struct draft *draft, const struct pool_eviction *eviction);

/* Adds to an eviction how the service does; the settings are those in force. */
void draft_add_performance(struct draft *draft,
    const struct performance_report *report,
    const struct performance_settings *settings);

/* Sequences of the members, 0 if there are none; call may be NULL. */
void draft_batch(struct draft *draft, const struct pool_batch *batch,
    uint64_t first_sequence, uint64_t last_sequence,
    const Kvpool__V1__EvictCall *call);

void draft_allocation(
    struct draft *draft, const struct pool_allocation *allocation);
void draft_release(struct draft *draft, const struct pool_release *release);
void draft_recomputation(
    struct draft *draft, const struct pool_recomputation *recomputation);

void draft_snapshot(
    struct draft *draft, const struct ledger_pool_snapshot *snapshot);
/* start: what was found on disk; NULL without a journal. */
void draft_boot(struct draft *draft, const struct ledger_boot *boot,
    const struct journal_start *start, const uint8_t config_digest[32]);
void draft_drain(struct draft *draft, const char *cause, int64_t limit_ns,
    const uint8_t config_digest[32]);
void draft_sink_gap(struct draft *draft, const char *sink,
    uint64_t first_sequence, uint64_t last_sequence,
    const uint8_t config_digest[32]);
void draft_configuration_change(
    struct draft *draft, const struct ledger_configuration_change *change);
void draft_loss_accepted(struct draft *draft, const struct journal_start *start,
    const uint8_t config_digest[32]);

#endif
