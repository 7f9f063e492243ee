/* libFuzzer: a filter of strangers over receipts of strangers. What is a
 * receipt, written as the ledger writes it, gets the answer that its unpacked
 * form gives for its kind; anything else is only looked at. */
#include <stdint.h>
#include <stdlib.h>

#include "receipts/filter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const Kvpool__V1__ReceiptKind kind_of[] = {
    [KVPOOL__V1__RECEIPT__KIND_EVICTION] =
        KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_EVICTION,
    [KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH] =
        KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_EVICTION_BATCH,
    [KVPOOL__V1__RECEIPT__KIND_POOL_SNAPSHOT] =
        KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_POOL_SNAPSHOT,
    [KVPOOL__V1__RECEIPT__KIND_ALLOCATION] =
        KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_ALLOCATION,
    [KVPOOL__V1__RECEIPT__KIND_LIFECYCLE] =
        KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_LIFECYCLE,
    [KVPOOL__V1__RECEIPT__KIND_RECOMPUTATION] =
        KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_RECOMPUTATION,
    [KVPOOL__V1__RECEIPT__KIND_RELEASE] =
        KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_RELEASE,
};

/* Each kind alone: exactly that of the receipt matches. */
static void check_kinds(const Kvpool__V1__Receipt *receipt)
{
    size_t n = kvpool__v1__receipt__get_packed_size(receipt);
    unsigned char *bytes = malloc(n + 1);

    if (bytes == NULL)
        return;
    kvpool__v1__receipt__pack(receipt, bytes);
    for (int kind = 1; kind <= 7; kind++) {
        Kvpool__V1__ReceiptFilter conditions = KVPOOL__V1__RECEIPT_FILTER__INIT;
        Kvpool__V1__ReceiptKind wanted = (Kvpool__V1__ReceiptKind)kind;
        struct filter *filter;

        conditions.n_kinds = 1;
        conditions.kinds = &wanted;
        if (filter_open(&filter, &conditions) != KV_OK)
            break;
        if (filter_matches(filter, bytes, n) !=
            ((int)kind_of[receipt->kind_case] == kind))
            __builtin_trap();
        filter_close(filter);
    }
    free(bytes);
}

/* The first byte says how many of the others are the filter. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    size_t n_filter = n > 0 && data[0] < n ? data[0] : 0;
    Kvpool__V1__ReceiptFilter *conditions;
    Kvpool__V1__Receipt *receipt;
    struct filter *filter;

    if (n == 0)
        return 0;
    conditions = kvpool__v1__receipt_filter__unpack(NULL, n_filter, data + 1);
    if (conditions == NULL)
        return 0;
    data += 1 + n_filter;
    n -= 1 + n_filter;
    if (filter_open(&filter, conditions) == KV_OK) {
        filter_matches(filter, data, n);
        filter_close(filter);
    }
    kvpool__v1__receipt_filter__free_unpacked(conditions, NULL);
    receipt = kvpool__v1__receipt__unpack(NULL, n, data);
    if (receipt != NULL && receipt->base.n_unknown_fields == 0)
        check_kinds(receipt);
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
    return 0;
}
