#include "receipts/recall.h"

#include <stdbool.h>
#include <string.h>

#include "base/heap.h"
#include "base/map.h"

struct entry {
    uint64_t sequence;
    int64_t mono_ns;
    uint64_t session; /* hash of its name */
    uint32_t reason;
    bool taken;
};

/* Entries [begin, end) of all that were ever added, in a ring. */
struct recall {
    uint64_t begin, end;
    struct entry entries[RECALL_EVICTIONS];
};

/* The names are the ledger's own, and nothing is looked up by their hash: it
 * needs no secret. */
static uint64_t hash_session(const struct recall_eviction *eviction)
{
    uint64_t seed[2] = {0, 0};

    seed[0] = kv_siphash(seed, eviction->tenant, strlen(eviction->tenant));
    return kv_siphash(seed, eviction->session_id, strlen(eviction->session_id));
}

static struct entry *entry_at(struct recall *recall, uint64_t i)
{
    return &recall->entries[i % RECALL_EVICTIONS];
}

enum kv_status recall_open(struct recall **out)
{
    struct recall *recall = kv_calloc(1, sizeof *recall);

    if (recall == NULL)
        return KV_NO_MEMORY;
    *out = recall;
    return KV_OK;
}

void recall_close(struct recall *recall)
{
    kv_free(recall);
}

void recall_clear(struct recall *recall)
{
    recall->begin = recall->end = 0;
}

void recall_add(struct recall *recall, const struct recall_eviction *eviction)
{
    *entry_at(recall, recall->end++) = (struct entry){
        .sequence = eviction->sequence,
        .mono_ns = eviction->mono_ns,
        .session = hash_session(eviction),
        .reason = eviction->reason,
    };
    if (recall->end - recall->begin > RECALL_EVICTIONS)
        recall->begin++;
}

/* The first entry with at least this sequence; NULL if there is none. */
static struct entry *find(struct recall *recall, uint64_t sequence)
{
    uint64_t low = recall->begin, high = recall->end;

    while (low < high) {
        uint64_t middle = low + (high - low) / 2;

        if (entry_at(recall, middle)->sequence < sequence)
            low = middle + 1;
        else
            high = middle;
    }
    return low < recall->end ? entry_at(recall, low) : NULL;
}

enum kv_status recall_take(
    struct recall *recall, struct recall_eviction *eviction)
{
    struct entry *entry = find(recall, eviction->sequence);

    if (recall->begin > 0 &&
        eviction->sequence < entry_at(recall, recall->begin)->sequence)
        return KV_NOT_FOUND;
    if (entry == NULL || entry->sequence != eviction->sequence ||
        entry->session != hash_session(eviction))
        return KV_INVALID;
    if (entry->taken)
        return KV_BUSY;
    entry->taken = true;
    eviction->mono_ns = entry->mono_ns;
    eviction->reason = entry->reason;
    return KV_OK;
}
