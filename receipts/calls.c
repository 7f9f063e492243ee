#include "receipts/calls.h"

#include <assert.h>
#include <string.h>

#include "base/heap.h"

struct calls {
    struct calls_config config;
    struct kv_map map;
    struct kv_list undecided;
    struct kv_list decided; /* longest ago first */
    size_t n_bytes;         /* of the outcomes of those */
};

struct key {
    const char *requested_by, *request_id;
};

static struct call *call_of(struct kv_list *link)
{
    return KV_LIST_ENTRY(link, struct call, link);
}

static bool is_call(const struct kv_map_node *node, const void *wanted)
{
    const struct call *call = KV_LIST_ENTRY(node, struct call, node);
    const struct key *key = wanted;

    return strlen(key->requested_by) == call->caller_bytes &&
           strlen(key->request_id) == call->id_bytes &&
           memcmp(key->requested_by, call->name, call->caller_bytes) == 0 &&
           memcmp(key->request_id, call->name + call->caller_bytes,
               call->id_bytes) == 0;
}

static uint64_t hash_key(const struct calls *calls, const struct key *key)
{
    const struct kv_bytes parts[] = {
        {key->requested_by, strlen(key->requested_by)},
        {key->request_id, strlen(key->request_id)}};

    return kv_map_hash(&calls->map, parts, 2);
}

/* ---- one call */

void call_retain(struct call *call)
{
    call->n_refs++;
}

void call_release(struct call *call)
{
    if (call == NULL || --call->n_refs > 0)
        return;
    kv_free(call->outcomes);
    kv_free(call);
}

/* Not in the index yet; NULL: no memory. */
static struct call *open_call(const struct key *key)
{
    size_t caller_bytes = strlen(key->requested_by);
    size_t id_bytes = strlen(key->request_id);
    struct call *call = kv_calloc(1, sizeof *call + caller_bytes + id_bytes);

    if (call == NULL)
        return NULL;
    call->n_refs = 1;
    call->caller_bytes = caller_bytes;
    call->id_bytes = id_bytes;
    memcpy(call->name, key->requested_by, caller_bytes);
    memcpy(call->name + caller_bytes, key->request_id, id_bytes);
    kv_list_init(&call->link);
    return call;
}

/* Room for n bytes of outcomes in all. */
static bool make_room(struct call *call, size_t n)
{
    unsigned char *outcomes;

    if (n <= call->n_room)
        return true;
    outcomes = kv_realloc(call->outcomes, n);
    if (outcomes == NULL)
        return false;
    call->outcomes = outcomes;
    call->n_room = n;
    return true;
}

/* Entries of a repeated message, one behind the other, are the message again,
 * and so is every run of them. */
static bool add_outcomes(
    struct call *call, Kvpool__V1__EvictOutcome **outcomes, size_t n_outcomes)
{
    Kvpool__V1__EvictResponse bare = KVPOOL__V1__EVICT_RESPONSE__INIT;

    bare.outcomes = outcomes;
    bare.n_outcomes = n_outcomes;
    if (!make_room(call,
            call->n_bytes + kvpool__v1__evict_response__get_packed_size(&bare)))
        return false;
    if (n_outcomes > 0)
        call->n_bytes += kvpool__v1__evict_response__pack(
            &bare, call->outcomes + call->n_bytes);
    call->n_outcomes += n_outcomes;
    return true;
}

/* The byte behind the entry at `at`: tag, length, outcome. */
static size_t next_entry(const struct call *call, size_t at)
{
    size_t length = 0;
    unsigned shift = 0;

    assert(call->outcomes[at] == 0x0A);
    do {
        at++;
        length |= (size_t)(call->outcomes[at] & 0x7F) << shift;
        shift += 7;
    } while ((call->outcomes[at] & 0x80) != 0);
    return at + 1 + length;
}

Kvpool__V1__EvictResponse *call_page(
    const struct call *call, size_t begin, size_t n)
{
    size_t from = 0, to;

    for (; begin > 0 && from < call->n_bytes; begin--)
        from = next_entry(call, from);
    for (to = from; n > 0 && to < call->n_bytes; n--)
        to = next_entry(call, to);
    return kvpool__v1__evict_response__unpack(NULL, to - from,
        call->outcomes != NULL ? call->outcomes + from : (unsigned char *)"");
}

/* ---- the index */

enum kv_status calls_open(struct calls **out, const struct calls_config *config)
{
    struct calls *calls = kv_calloc(1, sizeof *calls);

    assert(config->max_calls > 0);
    if (calls == NULL)
        return KV_NO_MEMORY;
    calls->config = *config;
    kv_list_init(&calls->undecided);
    kv_list_init(&calls->decided);
    if (kv_map_init(&calls->map, config->max_calls, config->secret, is_call) ==
        KV_OK) {
        *out = calls;
        return KV_OK;
    }
    kv_free(calls);
    return KV_NO_MEMORY;
}

static void forget(struct calls *calls, struct call *call)
{
    if (call->decided)
        calls->n_bytes -= call->n_bytes;
    kv_list_remove(&call->link);
    kv_map_remove(&calls->map, &call->node);
    call_release(call);
}

void calls_close(struct calls *calls)
{
    if (calls == NULL)
        return;
    KV_LIST_EACH (link, &calls->undecided)
        forget(calls, call_of(link));
    KV_LIST_EACH (link, &calls->decided)
        forget(calls, call_of(link));
    kv_map_fini(&calls->map);
    kv_free(calls);
}

/* Undecided, with the index's reference; NULL: no memory. */
static struct call *enter_new(struct calls *calls, const struct key *key)
{
    struct call *call = open_call(key);

    if (call == NULL)
        return NULL;
    kv_map_insert(&calls->map, &call->node, hash_key(calls, key));
    kv_list_append(&calls->undecided, &call->link);
    return call;
}

/* The longest decided go while there are too many; the latest stays. */
static void keep_limits(struct calls *calls)
{
    while (calls->decided.next != calls->decided.prev &&
           (calls->map.n_entries > calls->config.max_calls ||
               calls->n_bytes > calls->config.max_bytes))
        forget(calls, call_of(calls->decided.next));
}

static void enter_decided(struct calls *calls, struct call *call)
{
    call->decided = true;
    calls->n_bytes += call->n_bytes;
    kv_list_remove(&call->link);
    kv_list_append(&calls->decided, &call->link);
    keep_limits(calls);
}

static void leave_decided(struct calls *calls, struct call *call)
{
    call->decided = false;
    calls->n_bytes -= call->n_bytes;
    kv_list_remove(&call->link);
    kv_list_append(&calls->undecided, &call->link);
}

static struct call *find(struct calls *calls, const struct key *key)
{
    struct kv_map_node *node =
        kv_map_find(&calls->map, hash_key(calls, key), key);

    return node != NULL ? KV_LIST_ENTRY(node, struct call, node) : NULL;
}

static bool is_over(
    const struct calls *calls, const struct call *call, int64_t now_unix_ns)
{
    return call->time_unix_ns < now_unix_ns - calls->config.ttl_ns;
}

struct call *calls_find(struct calls *calls, const char *requested_by,
    const char *request_id, int64_t now_unix_ns)
{
    const struct key key = {requested_by, request_id};
    struct call *call;

    while (!kv_list_empty(&calls->decided) &&
           is_over(calls, call_of(calls->decided.next), now_unix_ns))
        forget(calls, call_of(calls->decided.next));
    call = find(calls, &key);
    /* The clock may have been set back between, so order is no proof. */
    if (call != NULL && call->decided && is_over(calls, call, now_unix_ns)) {
        forget(calls, call);
        return NULL;
    }
    return call;
}

enum kv_status calls_begin(struct calls *calls, const char *requested_by,
    const char *request_id, const uint8_t digest[CALLS_DIGEST_BYTES],
    size_t n_outcomes, struct call **out)
{
    const struct key key = {requested_by, request_id};
    struct call *call = enter_new(calls, &key);

    if (call == NULL)
        return KV_NO_MEMORY;
    if (!make_room(call, n_outcomes * CALLS_OUTCOME_BYTES)) {
        forget(calls, call);
        return KV_NO_MEMORY;
    }
    memcpy(call->digest, digest, CALLS_DIGEST_BYTES);
    call_retain(call);
    *out = call;
    return KV_OK;
}

void calls_decide(struct calls *calls, struct call *call,
    const Kvpool__V1__EvictResponse *answer,
    const Kvpool__V1__EvictReceipts *receipts, int64_t now_unix_ns)
{
    bool fits = add_outcomes(call, answer->outcomes, answer->n_outcomes);
    unsigned char *shrunk;

    assert(fits && !call->decided);
    (void)fits;
    shrunk = kv_realloc(call->outcomes, call->n_bytes > 0 ? call->n_bytes : 1);
    if (shrunk != NULL) {
        call->outcomes = shrunk;
        call->n_room = call->n_bytes > 0 ? call->n_bytes : 1;
    }
    call->time_unix_ns = now_unix_ns;
    call->sessions_evicted = answer->sessions_evicted;
    call->bytes_freed = answer->bytes_freed;
    call->sessions_held = answer->sessions_held;
    call->sessions_busy = answer->sessions_busy;
    call->sessions_forgotten = answer->sessions_forgotten;
    call->more = answer->more;
    if (receipts != NULL) {
        call->epoch = receipts->epoch;
        call->first_sequence = receipts->first_sequence;
        call->last_sequence = receipts->last_sequence;
    }
    enter_decided(calls, call);
}

void calls_abandon(struct calls *calls, struct call *call)
{
    assert(!call->decided);
    forget(calls, call);
    call_release(call);
}

size_t calls_count(const struct calls *calls)
{
    return calls->map.n_entries;
}

size_t calls_bytes(const struct calls *calls)
{
    return calls->n_bytes;
}

/* ---- from receipts */

/* Protobuf's wire format, as far as it takes to skip fields. */
struct wire {
    const unsigned char *at, *end;
};

static bool read_varint(struct wire *wire, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; shift < 64 && wire->at < wire->end; shift += 7) {
        unsigned char byte = *wire->at++;

        *value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static bool skip(struct wire *wire, uint64_t n_bytes)
{
    if (n_bytes > (uint64_t)(wire->end - wire->at))
        return false;
    wire->at += n_bytes;
    return true;
}

/* Moves into the message that is field `number`; false: it is not there, where
 * fields are in the order of their numbers, or this is no protobuf. */
static bool enter_field(struct wire *wire, uint64_t number)
{
    uint64_t tag, value;

    while (read_varint(wire, &tag) && tag / 8 <= number) {
        switch (tag % 8) {
        case 0: /* varint */
            if (!read_varint(wire, &value))
                return false;
            break;
        case 1: /* 64 bits */
            if (!skip(wire, 8))
                return false;
            break;
        case 2: /* bytes */
            if (!read_varint(wire, &value) || !skip(wire, value))
                return false;
            if (tag / 8 == number) {
                wire->end = wire->at;
                wire->at -= value;
                return true;
            }
            break;
        default:
            return false;
        }
    }
    return false;
}

/* Whether it is a batch of a call. Most receipts are not, and seen not to be
 * within a few fields. */
static bool has_call(const unsigned char *bytes, size_t n_bytes)
{
    struct wire wire = {bytes, bytes + n_bytes};

    return enter_field(&wire, 9) && enter_field(&wire, 12);
}

static void take_batch(struct call *call, const Kvpool__V1__Receipt *receipt,
    const Kvpool__V1__EvictCall *told)
{
    const Kvpool__V1__EvictionBatchReceipt *batch = receipt->eviction_batch;

    if (call->first_sequence == 0)
        call->first_sequence = batch->first_sequence != 0
                                   ? batch->first_sequence
                                   : receipt->sequence;
    memcpy(call->digest, told->request_digest.data, CALLS_DIGEST_BYTES);
    call->time_unix_ns = receipt->time_unix_ns;
    call->epoch = receipt->epoch;
    call->last_sequence = receipt->sequence;
    call->sessions_evicted += batch->count;
    call->bytes_freed += batch->total_bytes_freed;
    call->sessions_held = told->sessions_held;
    call->sessions_busy = told->sessions_busy;
    call->sessions_forgotten = told->sessions_forgotten;
    call->more = told->more || !told->final;
    call->n_batches = told->number;
}

static enum kv_status add_batch(
    struct calls *calls, const Kvpool__V1__Receipt *receipt)
{
    const Kvpool__V1__EvictCall *told = receipt->eviction_batch->call;
    const struct key key = {told->requested_by, told->request_id};
    struct call *call = find(calls, &key);
    bool goes_on = call != NULL && call->epoch == receipt->epoch &&
                   told->number == call->n_batches + UINT64_C(1);

    if (told->request_digest.len != CALLS_DIGEST_BYTES)
        return KV_OK;
    /* Of a call whose first batch is gone too little is left to answer with. */
    if (!goes_on && told->number != 1)
        return KV_OK;
    if (goes_on)
        leave_decided(calls, call);
    else if (call != NULL) /* its id was free again, and was used again */
        forget(calls, call);
    if (!goes_on)
        call = enter_new(calls, &key);
    if (call == NULL)
        return KV_NO_MEMORY;
    if (!add_outcomes(call, told->outcomes, told->n_outcomes)) {
        forget(calls, call);
        return KV_NO_MEMORY;
    }
    take_batch(call, receipt, told);
    enter_decided(calls, call);
    return KV_OK;
}

enum kv_status calls_add_receipt(struct calls *calls, uint64_t sequence,
    const unsigned char *bytes, size_t n_bytes)
{
    Kvpool__V1__Receipt *receipt;
    enum kv_status status = KV_OK;

    if (!has_call(bytes, n_bytes))
        return KV_OK;
    receipt = kvpool__v1__receipt__unpack(NULL, n_bytes, bytes);
    if (receipt == NULL)
        return KV_NO_MEMORY;
    if (receipt->kind_case == KVPOOL__V1__RECEIPT__KIND_EVICTION_BATCH &&
        receipt->eviction_batch->call != NULL &&
        receipt->eviction_batch->call->request_id[0] != '\0' &&
        receipt->sequence == sequence)
        status = add_batch(calls, receipt);
    kvpool__v1__receipt__free_unpacked(receipt, NULL);
    return status;
}
