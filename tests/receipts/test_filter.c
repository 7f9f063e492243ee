/* What a filter says of encoded receipts, against the same receipts unpacked.
 */
#include <stdlib.h>
#include <string.h>

#include "receipts/filter.h"
#include "tests/receipts/random_receipt.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

#define MAX_VALUES 4

/* A filter's conditions at random, with names that receipts may have. */
struct conditions {
    Kvpool__V1__ReceiptFilter message;
    Kvpool__V1__ReceiptKind kinds[MAX_VALUES];
    Kvpool__V1__EvictionReason reasons[MAX_VALUES];
    Kvpool__V1__SessionKey keys[MAX_VALUES], *key_list[MAX_VALUES];
    char *tenants[MAX_VALUES];
};

static char *const names[] = {(char *)"", (char *)"chat-7", (char *)"chat-",
    (char *)"quote \" backslash \\", (char *)"line\nbreak\x01"};

static char *draw_name(void)
{
    return names[(size_t)rand() % (sizeof names / sizeof *names)];
}

static size_t draw_count(void)
{
    return rand() % 2 == 0 ? 0 : (size_t)rand() % (MAX_VALUES + 1);
}

static void draw_conditions(struct conditions *out)
{
    Kvpool__V1__ReceiptFilter *message = &out->message;

    kvpool__v1__receipt_filter__init(message);
    message->n_kinds = draw_count();
    message->n_reasons = draw_count();
    message->n_sessions = draw_count();
    message->n_tenants = draw_count();
    for (size_t i = 0; i < MAX_VALUES; i++) {
        out->kinds[i] = (Kvpool__V1__ReceiptKind)(1 + rand() % 8);
        out->reasons[i] = (Kvpool__V1__EvictionReason)(1 + rand() % 7);
        kvpool__v1__session_key__init(&out->keys[i]);
        out->keys[i].tenant = draw_name();
        out->keys[i].session_id = draw_name();
        out->key_list[i] = &out->keys[i];
        out->tenants[i] = draw_name();
    }
    message->kinds = out->kinds;
    message->reasons = out->reasons;
    message->sessions = out->key_list;
    message->tenants = out->tenants;
}

/* ---- the same, on unpacked receipts */

struct properties {
    Kvpool__V1__ReceiptKind kind;
    bool has_reason, has_session;
    int reason;
    const char *session, *tenant;
};

#define SESSION_OF(body) true, 0, (body)->session_id, (body)->tenant

static struct properties properties_of(const Kvpool__V1__Receipt *receipt)
{
    switch (receipt->kind_case) {
    case KVPOOL__V1__RECEIPT__KIND_EVICTION:
        return (struct properties){1, true, true,
            (int)receipt->eviction->reason, receipt->eviction->session_id,
            receipt->eviction->tenant};
    case KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH:
        return (struct properties){
            2, true, false, (int)receipt->eviction_batch->reason, "", ""};
    case KVPOOL__V1__RECEIPT__KIND_POOL_SNAPSHOT:
        return (struct properties){.kind = 3};
    case KVPOOL__V1__RECEIPT__KIND_LIFECYCLE:
        return (struct properties){.kind = 4};
    case KVPOOL__V1__RECEIPT__KIND_ALLOCATION:
        return (struct properties){5, false, SESSION_OF(receipt->allocation)};
    case KVPOOL__V1__RECEIPT__KIND_RECOMPUTATION:
        return (struct properties){6, true, true,
            (int)receipt->recomputation->reason,
            receipt->recomputation->session_id, receipt->recomputation->tenant};
    case KVPOOL__V1__RECEIPT__KIND_RELEASE:
        return (struct properties){7, false, SESSION_OF(receipt->release)};
    default:
        return (struct properties){.kind = 0};
    }
}

static bool has_kind(const Kvpool__V1__ReceiptFilter *filter, int kind)
{
    for (size_t i = 0; i < filter->n_kinds; i++)
        if ((int)filter->kinds[i] == kind)
            return true;
    return filter->n_kinds == 0;
}

static bool has_reason(
    const Kvpool__V1__ReceiptFilter *filter, const struct properties *of)
{
    for (size_t i = 0; i < filter->n_reasons; i++)
        if (of->has_reason && (int)filter->reasons[i] == of->reason)
            return true;
    return filter->n_reasons == 0;
}

static bool has_session(
    const Kvpool__V1__ReceiptFilter *filter, const struct properties *of)
{
    for (size_t i = 0; i < filter->n_sessions; i++)
        if (of->has_session &&
            strcmp(filter->sessions[i]->tenant, of->tenant) == 0 &&
            strcmp(filter->sessions[i]->session_id, of->session) == 0)
            return true;
    return filter->n_sessions == 0;
}

static bool has_tenant(
    const Kvpool__V1__ReceiptFilter *filter, const struct properties *of)
{
    for (size_t i = 0; i < filter->n_tenants; i++)
        if (of->has_session && strcmp(filter->tenants[i], of->tenant) == 0)
            return true;
    return filter->n_tenants == 0;
}

static bool should_match(
    const Kvpool__V1__ReceiptFilter *filter, const Kvpool__V1__Receipt *receipt)
{
    struct properties of = properties_of(receipt);

    return has_kind(filter, (int)of.kind) && has_reason(filter, &of) &&
           has_session(filter, &of) && has_tenant(filter, &of);
}

/* ---- laws */

static struct filter *opened(const Kvpool__V1__ReceiptFilter *conditions)
{
    struct filter *filter;

    ck_assert_int_eq(filter_open(&filter, conditions), KV_OK);
    return filter;
}

static unsigned char *encoded(const Kvpool__V1__Receipt *receipt, size_t *n)
{
    unsigned char *bytes;

    *n = kvpool__v1__receipt__get_packed_size(receipt);
    bytes = malloc(*n + 1);
    ck_assert_ptr_nonnull(bytes);
    kvpool__v1__receipt__pack(receipt, bytes);
    return bytes;
}

START_TEST(it_says_of_bytes_what_the_contract_says_of_receipts)
{
    size_t n_matched = 0;

    srand(11);
    for (int i = 0; i < 8000; i++) {
        Kvpool__V1__Receipt *receipt = random_receipt();
        struct conditions conditions;
        struct filter *filter;
        unsigned char *bytes;
        bool expected;
        size_t n;

        draw_conditions(&conditions);
        filter = opened(&conditions.message);
        bytes = encoded(receipt, &n);
        expected = should_match(&conditions.message, receipt);
        ck_assert_int_eq(filter_matches(filter, bytes, n), expected);
        n_matched += expected && filter != NULL;
        free(bytes);
        filter_close(filter);
        kvpool__v1__receipt__free_unpacked(receipt, NULL);
    }
    ck_assert_uint_gt(n_matched, 200);
}
END_TEST

START_TEST(no_condition_is_no_filter_and_lets_all_through)
{
    const Kvpool__V1__ReceiptFilter none = KVPOOL__V1__RECEIPT_FILTER__INIT;

    ck_assert_ptr_null(opened(NULL));
    ck_assert_ptr_null(opened(&none));
    ck_assert(filter_matches(NULL, (const unsigned char *)"", 0));
}
END_TEST

/* Bytes end at the end of a block of their own, so that a sanitizer sees one
 * too many. */
static void look_at(
    const struct filter *filter, const unsigned char *bytes, size_t n)
{
    unsigned char *copy = malloc(n > 0 ? n : 1);

    ck_assert_ptr_nonnull(copy);
    memcpy(copy, bytes, n);
    filter_matches(filter, copy, n);
    free(copy);
}

START_TEST(nothing_beyond_damaged_bytes_is_read)
{
    struct conditions conditions;

    srand(12);
    for (int i = 0; i < 400; i++) {
        Kvpool__V1__Receipt *receipt = random_receipt();
        struct filter *filter;
        unsigned char *bytes;
        size_t n;

        draw_conditions(&conditions);
        filter = opened(&conditions.message);
        bytes = encoded(receipt, &n);
        for (int j = 0; j < 8; j++) {
            if (n > 0)
                bytes[(size_t)rand() % n] = (unsigned char)rand();
            look_at(filter, bytes, n > 0 ? (size_t)rand() % n : 0);
            look_at(filter, bytes, n);
        }
        free(bytes);
        filter_close(filter);
        kvpool__v1__receipt__free_unpacked(receipt, NULL);
    }
}
END_TEST

START_TEST(bytes_that_are_no_receipt_match_no_condition)
{
    static const unsigned char endless[] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const unsigned char beyond[] = {0x42, 0x7f, 0x0a, 0x01, 'a'};
    static const unsigned char group[] = {0x43, 0x44};
    struct conditions conditions;
    struct filter *filter;

    kvpool__v1__receipt_filter__init(&conditions.message);
    for (int i = 0; i < MAX_VALUES; i++)
        conditions.kinds[i] = (Kvpool__V1__ReceiptKind)(i + 1);
    conditions.message.kinds = conditions.kinds;
    conditions.message.n_kinds = MAX_VALUES;
    filter = opened(&conditions.message);
    ck_assert(!filter_matches(filter, endless, sizeof endless));
    ck_assert(!filter_matches(filter, beyond, sizeof beyond));
    ck_assert(!filter_matches(filter, group, sizeof group));
    ck_assert(!filter_matches(filter, group, 0));
    filter_close(filter);
}
END_TEST

START_TEST(without_memory_there_is_none)
{
    struct conditions conditions;
    struct filter *filter;

    srand(13);
    do
        draw_conditions(&conditions);
    while (conditions.message.n_kinds == 0);
    faulty_heap_fail_at(0);
    ck_assert_int_eq(filter_open(&filter, &conditions.message), KV_NO_MEMORY);
    ck_assert_ptr_null(filter);
    faulty_heap_fail_at(-1);
}
END_TEST

static void set_up(void)
{
    faulty_heap_install();
    faulty_heap_fail_at(-1);
}

static void tear_down(void)
{
    ck_assert_int_eq(faulty_heap_live(), 0);
}

int main(void)
{
    const TTest *tests[] = {
        it_says_of_bytes_what_the_contract_says_of_receipts,
        no_condition_is_no_filter_and_lets_all_through,
        nothing_beyond_damaged_bytes_is_read,
        bytes_that_are_no_receipt_match_no_condition,
        without_memory_there_is_none,
    };

    return CHECK_RUN("filter", set_up, tear_down, tests);
}
