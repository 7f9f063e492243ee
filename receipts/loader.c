#include "receipts/loader.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "base/heap.h"
#include "base/list.h"
#include "base/log.h"

/* A load goes from the owner to the thread and back:
 *
 *   used ──┬─> queue ─> being read ─> finished ──┬─> used, done
 *          └─ (nobody wants it any more) ─> gone └─> idle, done ─> gone
 *
 * `used` and `idle` are the owner's lists of all loads, by link; queue and
 * finished are what the two pass to one another, by pass, under the mutex. What
 * the thread reads into a load is its own until the load has come back. */
struct feed_load {
    struct kv_list link, pass;
    struct kv_list waiting; /* cursors */
    uint64_t sequence;      /* that was asked for */
    uint32_t n_cursors;
    bool done;
    bool queued; /* guarded by the mutex */

    enum kv_status status;
    struct ring_chunk *chunk; /* KV_OK */
    struct kv_error error;    /* anything else */
};

struct loader {
    struct loader_config config;
    struct kv_list used, idle; /* idle: the longest first */
    size_t n_idle;
    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t work;
    struct kv_list queue, finished;
    bool stop;
};

static bool has(const struct ring_chunk *chunk, uint64_t sequence)
{
    return sequence >= chunk->first_sequence &&
           sequence - chunk->first_sequence < chunk->n_entries;
}

/* ---- the thread */

/* Readers of one place may ask for different receipts of one chunk, so the
 * chunk read last is kept at hand. */
static void read_load(
    struct loader *loader, struct feed_load *load, struct ring_chunk **last)
{
    if (*last == NULL || !has(*last, load->sequence)) {
        struct ring_chunk *chunk;

        load->status = loader->config.load(
            loader->config.load_ctx, load->sequence, &chunk, &load->error);
        if (load->status != KV_OK)
            return;
        if (*last != NULL)
            ring_chunk_release(*last);
        *last = chunk;
    }
    ring_chunk_retain(*last);
    load->status = KV_OK;
    load->chunk = *last;
}

static void *run(void *argument)
{
    struct loader *loader = argument;
    struct ring_chunk *last = NULL;

    pthread_mutex_lock(&loader->mutex);
    for (;;) {
        struct feed_load *load;

        while (kv_list_empty(&loader->queue) && !loader->stop)
            pthread_cond_wait(&loader->work, &loader->mutex);
        if (loader->stop)
            break;
        load = KV_LIST_ENTRY(loader->queue.next, struct feed_load, pass);
        kv_list_remove(&load->pass);
        load->queued = false;
        pthread_mutex_unlock(&loader->mutex);
        read_load(loader, load, &last);
        pthread_mutex_lock(&loader->mutex);
        kv_list_append(&loader->finished, &load->pass);
        loader->config.wake(loader->config.wake_ctx);
    }
    pthread_mutex_unlock(&loader->mutex);
    if (last != NULL)
        ring_chunk_release(last);
    return NULL;
}

/* ---- loads */

static void free_load(struct feed_load *load)
{
    kv_list_remove(&load->link);
    if (load->chunk != NULL)
        ring_chunk_release(load->chunk);
    kv_free(load);
}

static struct feed_load *find_in(struct kv_list *list, uint64_t sequence)
{
    KV_LIST_EACH (link, list) {
        struct feed_load *load = KV_LIST_ENTRY(link, struct feed_load, link);

        if (load->done ? load->chunk != NULL && has(load->chunk, sequence)
                       : load->sequence == sequence)
            return load;
    }
    return NULL;
}

/* A new one, queued. */
static struct feed_load *queue_load(struct loader *loader, uint64_t sequence)
{
    struct feed_load *load = kv_calloc(1, sizeof *load);

    if (load == NULL)
        return NULL;
    load->sequence = sequence;
    load->queued = true;
    kv_list_init(&load->waiting);
    kv_list_append(&loader->used, &load->link);
    pthread_mutex_lock(&loader->mutex);
    kv_list_append(&loader->queue, &load->pass);
    pthread_cond_signal(&loader->work);
    pthread_mutex_unlock(&loader->mutex);
    return load;
}

/* One cursor more has it. */
static void take(struct loader *loader, struct feed_load *load)
{
    if (load->done && load->n_cursors++ == 0) {
        kv_list_remove(&load->link);
        kv_list_append(&loader->used, &load->link);
        loader->n_idle--;
    } else if (!load->done) {
        load->n_cursors++;
    }
}

/* Nobody has it any more. */
static void retire(struct loader *loader, struct feed_load *load)
{
    if (load->chunk == NULL) {
        free_load(load);
        return;
    }
    kv_list_remove(&load->link);
    kv_list_append(&loader->idle, &load->link);
    if (++loader->n_idle <= LOADER_IDLE)
        return;
    free_load(KV_LIST_ENTRY(loader->idle.next, struct feed_load, link));
    loader->n_idle--;
}

/* Takes it off the queue, unless it is being read. */
static bool unqueue(struct loader *loader, struct feed_load *load)
{
    bool was_queued;

    pthread_mutex_lock(&loader->mutex);
    was_queued = load->queued;
    if (was_queued)
        kv_list_remove(&load->pass);
    load->queued = false;
    pthread_mutex_unlock(&loader->mutex);
    return was_queued;
}

static void give_back(struct loader *loader, struct feed_load *load)
{
    if (--load->n_cursors > 0)
        return;
    if (load->done)
        retire(loader, load);
    else if (unqueue(loader, load))
        free_load(load);
}

/* ---- cursors */

void loader_leave(struct loader *loader, struct feed_cursor *cursor)
{
    struct feed_load *load = cursor->load;

    if (load == NULL)
        return;
    if (cursor->waits)
        kv_list_remove(&cursor->waiting);
    cursor->waits = false;
    cursor->load = NULL;
    give_back(loader, load);
}

/* What the cursor has already. KV_NOT_FOUND: it is of no use. */
static enum kv_status look_at_own(const struct feed_cursor *cursor,
    uint64_t sequence, struct ring_chunk **out)
{
    const struct feed_load *load = cursor->load;

    if (load == NULL)
        return KV_NOT_FOUND;
    if (!load->done)
        return load->sequence == sequence ? KV_BUSY : KV_NOT_FOUND;
    if (load->chunk != NULL && has(load->chunk, sequence)) {
        *out = load->chunk;
        return KV_OK;
    }
    return load->chunk == NULL && load->sequence == sequence ? load->status
                                                             : KV_NOT_FOUND;
}

enum kv_status loader_find(struct loader *loader, struct feed_cursor *cursor,
    uint64_t sequence, struct ring_chunk **out)
{
    enum kv_status status = look_at_own(cursor, sequence, out);
    struct feed_load *load;

    if (status == KV_OK || status == KV_BUSY)
        return status;
    loader_leave(loader, cursor);
    if (status != KV_NOT_FOUND)
        return status;
    load = find_in(&loader->used, sequence);
    if (load == NULL)
        load = find_in(&loader->idle, sequence);
    if (load == NULL)
        load = queue_load(loader, sequence);
    if (load == NULL)
        return KV_NO_MEMORY;
    take(loader, load);
    cursor->load = load;
    if (load->done) {
        *out = load->chunk;
        return KV_OK;
    }
    cursor->waits = true;
    kv_list_append(&load->waiting, &cursor->waiting);
    return KV_BUSY;
}

/* Those who wait are told one by one, since each may do away with others. The
 * load stays: it has one cursor more for as long. */
static void tell_waiting(struct loader *loader, struct feed_load *load)
{
    load->n_cursors++;
    while (!kv_list_empty(&load->waiting)) {
        struct feed_cursor *cursor =
            KV_LIST_ENTRY(load->waiting.next, struct feed_cursor, waiting);

        kv_list_remove(&cursor->waiting);
        cursor->waits = false;
        if (cursor->on_ready != NULL)
            cursor->on_ready(cursor);
    }
    give_back(loader, load);
}

static struct feed_load *take_finished(struct loader *loader)
{
    struct feed_load *load = NULL;

    pthread_mutex_lock(&loader->mutex);
    if (!kv_list_empty(&loader->finished)) {
        load = KV_LIST_ENTRY(loader->finished.next, struct feed_load, pass);
        kv_list_remove(&load->pass);
    }
    pthread_mutex_unlock(&loader->mutex);
    return load;
}

void loader_collect(struct loader *loader)
{
    struct feed_load *load;

    while ((load = take_finished(loader)) != NULL) {
        load->done = true;
        if (load->status != KV_OK && load->status != KV_RANGE)
            kv_log(KV_LOG_ERROR, "kvpool::receipts",
                "receipts cannot be read from disk",
                KV_LOG_UINT("sequence", load->sequence),
                KV_LOG_TEXT("reason", load->error.text));
        tell_waiting(loader, load);
    }
}

/* ---- life */

enum kv_status loader_open(struct loader **out,
    const struct loader_config *config, struct kv_error *error)
{
    struct loader *loader = kv_calloc(1, sizeof *loader);
    int failed;

    if (loader == NULL)
        return kv_error_set(
            error, KV_NO_MEMORY, "no memory to read receipts from disk with");
    loader->config = *config;
    kv_list_init(&loader->used);
    kv_list_init(&loader->idle);
    kv_list_init(&loader->queue);
    kv_list_init(&loader->finished);
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->work, NULL);
    failed = pthread_create(&loader->thread, NULL, run, loader);
    if (failed != 0)
        goto free_loader;
    *out = loader;
    return KV_OK;

free_loader:
    pthread_cond_destroy(&loader->work);
    pthread_mutex_destroy(&loader->mutex);
    kv_free(loader);
    return kv_error_set(error, KV_LIMIT,
        "no thread to read receipts from disk with: %s", strerror(failed));
}

static void free_all(struct kv_list *list)
{
    KV_LIST_EACH (link, list)
        free_load(KV_LIST_ENTRY(link, struct feed_load, link));
}

void loader_close(struct loader *loader)
{
    if (loader == NULL)
        return;
    pthread_mutex_lock(&loader->mutex);
    loader->stop = true;
    pthread_cond_signal(&loader->work);
    pthread_mutex_unlock(&loader->mutex);
    pthread_join(loader->thread, NULL);
    free_all(&loader->used);
    free_all(&loader->idle);
    pthread_cond_destroy(&loader->work);
    pthread_mutex_destroy(&loader->mutex);
    kv_free(loader);
}
