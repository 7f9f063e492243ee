/* Many subscribers of one server at once, while receipts are issued:
 *
 *     subscribers ADDRESS N_SUBSCRIBERS N_RECEIPTS
 *
 * Each has a thread and a connection of its own, a filter, a start and a habit:
 * some take nothing until the end, some go away again and again and resume.
 * The first wants everything and is the measure of the others: each must have
 * had exactly the receipts that its filter lets through, with the same bytes,
 * in order and none twice. Other threads evict until there are N_RECEIPTS: of
 * the tenant "acme" the sessions s0, s1, ..., and of nobody else.
 *
 * Prints the number of deliveries; exits 1 and says what is wrong. */
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/heap.h"
#include "kvpool/v1/pool_service.pb-c.h"
#include "rpc/client.h"

#define SERVICE "/kvpool.v1.KvPoolService/"
#define MAX_RECEIPTS 65536
#define N_EVICTORS 4
#define RESUME_AFTER 500 /* receipts, for those who go away again and again */
#define PATIENCE_NS (120 * KV_NS_PER_S)

enum habit { READS, STALLS, RESUMES };
enum want {
    WANTS_ALL,
    WANTS_BATCHES,
    WANTS_SNAPSHOTS,
    WANTS_MANUAL,
    WANTS_ACME
};

struct facts { /* of a receipt, as the first subscriber saw it */
    Kvpool__V1__Receipt__KindCase kind;
    bool is_manual, is_acme;
};

static const char *address;
static uint64_t n_wanted;
static struct facts facts[MAX_RECEIPTS];
static _Atomic uint64_t n_issued; /* at least */
static _Atomic uint64_t end;      /* 0: not known yet */
static _Atomic unsigned n_begun;

struct subscriber {
    pthread_t thread;
    unsigned number;
    enum habit habit;
    enum want want;
    bool from_latest;

    uint64_t begin, place; /* it was given what lies behind, up to */
    uint32_t epoch;
    uint8_t pool_id[16];
    bool has_place;
    uint64_t n_taken, n_of_call, n_calls;
    uint32_t hashes[MAX_RECEIPTS]; /* of the bytes; 0: it did not come */
    char error[256];
};

__attribute__((format(printf, 2, 3))) static bool fail(
    struct subscriber *subscriber, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(subscriber->error, sizeof subscriber->error, format, args);
    va_end(args);
    return false;
}

/* ---- what is taken */

static uint32_t hash_of(const unsigned char *bytes, size_t n)
{
    uint32_t hash = 2166136261U;

    for (size_t i = 0; i < n; i++)
        hash = (hash ^ bytes[i]) * 16777619U;
    return hash | 1;
}

/* The bytes of the next receipt, where messages of the server have them. */
static const unsigned char *next_receipt(const unsigned char **at, size_t *n)
{
    const unsigned char *p = *at;

    if (*p++ != 0x0a)
        return NULL;
    *n = 0;
    for (unsigned shift = 0;; shift += 7) {
        *n |= (size_t)(*p & 0x7f) << shift;
        if ((*p++ & 0x80) == 0)
            break;
    }
    *at = p + *n;
    return p;
}

static bool is_manual(Kvpool__V1__EvictionReason reason)
{
    return reason == KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_MANUAL;
}

static void learn(const Kvpool__V1__Receipt *receipt)
{
    struct facts *fact = &facts[receipt->sequence];

    fact->kind = receipt->kind_case;
    if (receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_EVICTION) {
        fact->is_manual = is_manual(receipt->eviction->reason);
        fact->is_acme = strcmp(receipt->eviction->tenant, "acme") == 0;
    }
    if (receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH)
        fact->is_manual = is_manual(receipt->eviction_batch->reason);
}

static bool take_receipt(struct subscriber *subscriber,
    const Kvpool__V1__Receipt *receipt, const unsigned char *bytes, size_t n)
{
    if (receipt->sequence >= MAX_RECEIPTS)
        return fail(subscriber, "too many receipts");
    if (receipt->sequence <= subscriber->place && subscriber->has_place)
        return fail(subscriber, "receipt %" PRIu64 " came behind %" PRIu64,
            receipt->sequence, subscriber->place);
    subscriber->hashes[receipt->sequence] = hash_of(bytes, n);
    subscriber->place = receipt->sequence;
    subscriber->epoch = receipt->epoch;
    memcpy(subscriber->pool_id, receipt->pool_id.data, 16);
    subscriber->has_place = true;
    subscriber->n_taken++;
    subscriber->n_of_call++;
    if (subscriber->number == 0)
        learn(receipt);
    return true;
}

static void take_bookmark(
    struct subscriber *subscriber, const Kvpool__V1__LedgerPosition *position)
{
    if (!subscriber->has_place)
        subscriber->begin = position->sequence;
    if (subscriber->has_place && position->sequence < subscriber->place)
        fail(subscriber, "a bookmark goes back");
    subscriber->has_place = true;
    subscriber->place = position->sequence;
    subscriber->epoch = position->epoch;
    memcpy(subscriber->pool_id, position->pool_id.data, 16);
}

static bool take_message(struct subscriber *subscriber,
    const unsigned char *bytes,
    const Kvpool__V1__StreamReceiptsResponse *message)
{
    const unsigned char *at = bytes, *receipt;
    size_t n;

    for (size_t i = 0; i < message->n_receipts; i++) {
        receipt = next_receipt(&at, &n);
        if (receipt == NULL)
            return fail(subscriber, "receipts do not lie together");
        if (!take_receipt(subscriber, message->receipts[i], receipt, n))
            return false;
    }
    if (message->gap != NULL)
        return fail(subscriber, "a gap, for a reader of everything");
    if (message->through_sequence != 0 && subscriber->has_place) {
        if (message->through_sequence < subscriber->place)
            return fail(subscriber, "through_sequence goes back");
        subscriber->place = message->through_sequence;
        subscriber->epoch = message->through_epoch;
    }
    if (message->bookmark != NULL)
        take_bookmark(subscriber, message->bookmark->position);
    return subscriber->error[0] == '\0';
}

/* ---- a subscriber */

static void set_filter(enum want want, Kvpool__V1__ReceiptFilter *filter,
    Kvpool__V1__ReceiptKind *kind, Kvpool__V1__EvictionReason *reason,
    char **tenant)
{
    kvpool__v1__receipt_filter__init(filter);
    filter->kinds = kind;
    filter->reasons = reason;
    filter->tenants = tenant;
    *reason = KVPOOL__V1__EVICTION_REASON__EVICTION_REASON_MANUAL;
    *tenant = (char *)"acme";
    *kind = want == WANTS_BATCHES
                ? KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_EVICTION_BATCH
                : KVPOOL__V1__RECEIPT_KIND__RECEIPT_KIND_POOL_SNAPSHOT;
    filter->n_kinds = want == WANTS_BATCHES || want == WANTS_SNAPSHOTS;
    filter->n_reasons = want == WANTS_MANUAL;
    filter->n_tenants = want == WANTS_ACME;
}

static struct rpc_client_stream *subscribe(
    struct subscriber *subscriber, struct rpc_client *client)
{
    const struct rpc_client_options options = {.timeout_ns = PATIENCE_NS};
    Kvpool__V1__StreamReceiptsRequest request =
        KVPOOL__V1__STREAM_RECEIPTS_REQUEST__INIT;
    Kvpool__V1__LedgerPosition after = KVPOOL__V1__LEDGER_POSITION__INIT;
    Kvpool__V1__StartEarliest earliest = KVPOOL__V1__START_EARLIEST__INIT;
    Kvpool__V1__ReceiptFilter filter;
    Kvpool__V1__ReceiptKind kind;
    Kvpool__V1__EvictionReason reason;
    struct rpc_client_stream *stream = NULL;
    unsigned char bytes[512];
    char *tenant;

    set_filter(subscriber->want, &filter, &kind, &reason, &tenant);
    request.filter = &filter;
    request.max_batch = 1 + subscriber->number * 7 % 1024;
    if (subscriber->has_place) {
        after.sequence = subscriber->place;
        after.epoch = subscriber->place > 0 ? subscriber->epoch : 0;
        after.pool_id = (ProtobufCBinaryData){16, subscriber->pool_id};
        request.after = &after;
        request.start_case = KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_AFTER;
    } else if (!subscriber->from_latest) {
        request.earliest = &earliest;
        request.start_case =
            KVPOOL__V1__STREAM_RECEIPTS_REQUEST__START_EARLIEST;
    }
    subscriber->n_of_call = 0;
    subscriber->n_calls++;
    if (rpc_client_stream_open(client, SERVICE "StreamReceipts", bytes,
            kvpool__v1__stream_receipts_request__pack(&request, bytes),
            &options, &stream) != KV_OK)
        fail(subscriber, "no stream");
    return stream;
}

static bool is_done(const struct subscriber *subscriber)
{
    uint64_t last = atomic_load(&end);

    return last > 0 && subscriber->has_place && subscriber->place >= last;
}

/* One message more; false: the call is over. */
static bool read_message(
    struct subscriber *subscriber, struct rpc_client_stream *stream)
{
    Kvpool__V1__StreamReceiptsResponse *message;
    struct rpc_error error;
    unsigned char *bytes;
    size_t n;
    bool goes_on;
    enum kv_status status =
        rpc_client_stream_next(stream, 100 * KV_NS_PER_MS, &bytes, &n, &error);

    if (status == KV_BUSY)
        return true;
    if (status != KV_OK)
        return fail(subscriber, "the stream ended: %d %s %s", error.code,
            error.reason, error.message);
    message = kvpool__v1__stream_receipts_response__unpack(NULL, n, bytes);
    goes_on = message != NULL && take_message(subscriber, bytes, message);
    kvpool__v1__stream_receipts_response__free_unpacked(message, NULL);
    kv_free(bytes);
    return goes_on;
}

static void pause_ns(int64_t duration_ns)
{
    struct timespec time = {.tv_nsec = duration_ns};

    nanosleep(&time, NULL);
}

static void read_all(struct subscriber *subscriber, struct rpc_client *client)
{
    struct rpc_client_stream *stream = subscribe(subscriber, client);
    bool begun = false;

    while (stream != NULL && !is_done(subscriber)) {
        if (!read_message(subscriber, stream))
            break;
        if (subscriber->has_place && !begun) {
            begun = true;
            atomic_fetch_add(&n_begun, 1);
        }
        while (subscriber->habit == STALLS && begun && atomic_load(&end) == 0)
            pause_ns(10 * KV_NS_PER_MS);
        if (subscriber->habit == RESUMES &&
            subscriber->n_of_call >= RESUME_AFTER) {
            rpc_client_stream_close(stream);
            stream = subscribe(subscriber, client);
        }
    }
    rpc_client_stream_close(stream);
    if (!begun)
        atomic_fetch_add(&n_begun, 1);
}

static void *run_subscriber(void *ctx)
{
    struct subscriber *subscriber = ctx;
    struct rpc_client *client;

    if (rpc_client_open(&client, address, NULL) != KV_OK) {
        fail(subscriber, "no client");
        return NULL;
    }
    read_all(subscriber, client);
    rpc_client_close(client);
    return NULL;
}

/* ---- evicting */

/* Of one session of acme now and then, else of one that is not there. */
static uint64_t evict(struct rpc_client *client, unsigned number)
{
    const struct rpc_client_options options = {.timeout_ns = PATIENCE_NS};
    Kvpool__V1__EvictRequest request = KVPOOL__V1__EVICT_REQUEST__INIT;
    Kvpool__V1__EvictTarget target = KVPOOL__V1__EVICT_TARGET__INIT;
    Kvpool__V1__EvictTarget *targets = &target;
    Kvpool__V1__SessionKey key = KVPOOL__V1__SESSION_KEY__INIT;
    Kvpool__V1__EvictResponse *answer;
    unsigned char bytes[256], *out;
    struct rpc_error error;
    uint64_t last = 0;
    char id[16];
    size_t n;

    snprintf(id, sizeof id, "s%u", number / 20);
    key.session_id = id;
    key.tenant = (char *)(number % 20 == 0 ? "acme" : "nobody");
    target.target_case = KVPOOL__V1__EVICT_TARGET__TARGET_SESSION;
    target.session = &key;
    request.targets = &targets;
    request.n_targets = 1;
    if (rpc_client_call(client, SERVICE "Evict", bytes,
            kvpool__v1__evict_request__pack(&request, bytes), &options, &out,
            &n, &error) != RPC_OK) {
        fprintf(stderr, "Evict: %s\n", error.message);
        exit(EXIT_FAILURE);
    }
    answer = kvpool__v1__evict_response__unpack(NULL, n, out);
    if (answer != NULL && answer->receipts != NULL)
        last = answer->receipts->last_sequence;
    kvpool__v1__evict_response__free_unpacked(answer, NULL);
    kv_free(out);
    return last;
}

static _Atomic unsigned n_calls;

static void *run_evictor(void *ctx)
{
    uint64_t until = *(const uint64_t *)ctx;
    struct rpc_client *client;

    if (rpc_client_open(&client, address, NULL) != KV_OK)
        exit(EXIT_FAILURE);
    while (atomic_load(&n_issued) < until) {
        uint64_t last = evict(client, atomic_fetch_add(&n_calls, 1));
        uint64_t known = atomic_load(&n_issued);

        while (known < last &&
               !atomic_compare_exchange_weak(&n_issued, &known, last))
            ;
    }
    rpc_client_close(client);
    return NULL;
}

static void evict_until(uint64_t n_receipts)
{
    pthread_t threads[N_EVICTORS];

    for (size_t i = 0; i < N_EVICTORS; i++)
        if (pthread_create(&threads[i], NULL, run_evictor, &n_receipts) != 0)
            exit(EXIT_FAILURE);
    for (size_t i = 0; i < N_EVICTORS; i++)
        pthread_join(threads[i], NULL);
}

/* ---- all together */

static void choose(struct subscriber *subscriber, unsigned number)
{
    static const enum want wants[] = {WANTS_ALL, WANTS_BATCHES, WANTS_ALL,
        WANTS_MANUAL, WANTS_ALL, WANTS_SNAPSHOTS, WANTS_ALL, WANTS_ACME};

    subscriber->number = number;
    subscriber->want = wants[number % 8];
    subscriber->habit = number % 10 == 3 ? STALLS : READS;
    if (number % 40 == 6 || number % 40 == 16)
        subscriber->habit = RESUMES;
    subscriber->from_latest = number % 5 == 4;
}

static bool wants(enum want want, const struct facts *fact)
{
    switch (want) {
    case WANTS_BATCHES:
        return fact->kind == KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH;
    case WANTS_SNAPSHOTS:
        return fact->kind == KVPOOL__V1__RECEIPT__KIND_POOL_SNAPSHOT;
    case WANTS_MANUAL:
        return fact->is_manual;
    case WANTS_ACME:
        return fact->is_acme;
    default:
        return true;
    }
}

static bool compare(
    struct subscriber *subscriber, const struct subscriber *measure)
{
    uint64_t last = atomic_load(&end);

    if (subscriber->error[0] != '\0')
        return false;
    for (uint64_t i = 1; i <= last; i++) {
        bool wanted =
            i > subscriber->begin && wants(subscriber->want, &facts[i]);

        if (measure->hashes[i] == 0)
            return fail(subscriber, "the measure itself misses %" PRIu64, i);
        if (subscriber->hashes[i] != (wanted ? measure->hashes[i] : 0))
            return fail(subscriber, "receipt %" PRIu64 ": %s", i,
                subscriber->hashes[i] == 0 ? "it is missing"
                : wanted                   ? "its bytes are others"
                                           : "it was not asked for");
    }
    return true;
}

int main(int argc, char **argv)
{
    size_t n = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    struct subscriber *subscribers = calloc(n + 1, sizeof *subscribers);
    uint64_t n_taken = 0, n_resumed = 0;
    bool ok = true;

    if (argc != 4 || n == 0 || subscribers == NULL) {
        fprintf(
            stderr, "usage: subscribers ADDRESS N_SUBSCRIBERS N_RECEIPTS\n");
        return EXIT_FAILURE;
    }
    address = argv[1];
    n_wanted = strtoull(argv[3], NULL, 10);
    evict_until(n_wanted / 2);
    for (size_t i = 0; i < n; i++) {
        choose(&subscribers[i], (unsigned)i);
        if (pthread_create(&subscribers[i].thread, NULL, run_subscriber,
                &subscribers[i]) != 0)
            return EXIT_FAILURE;
    }
    while (atomic_load(&n_begun) < n / 2)
        pause_ns(KV_NS_PER_MS);
    evict_until(n_wanted);
    atomic_store(&end, atomic_load(&n_issued));
    for (size_t i = 0; i < n; i++)
        pthread_join(subscribers[i].thread, NULL);
    for (size_t i = 0; i < n; i++) {
        n_taken += subscribers[i].n_taken;
        n_resumed += subscribers[i].n_calls - 1;
        if (!compare(&subscribers[i], &subscribers[0])) {
            fprintf(stderr, "subscriber %zu: %s\n", i, subscribers[i].error);
            ok = false;
        }
    }
    printf("%" PRIu64 " deliveries, %" PRIu64 " resumed\n", n_taken, n_resumed);
    free(subscribers);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
