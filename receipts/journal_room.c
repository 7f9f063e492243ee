/* The next segment, made before the present one is full.
 *
 * A sync of bytes in a file that was only reserved (posix_fallocate), or not
 * even that, must also write that these blocks have data now. One of blocks
 * that were written before has nothing to say but the bytes themselves. For
 * groups of 64 KiB on ext4: 0.20 ms at the median in a file of zeros, 0.43 in a
 * reserved one, 0.48 in one that grows. So the file is filled with zeros, some
 * 80 ms for 64 MiB, by a thread of its own; and what was filled cannot meet a
 * full disk later. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "base/thread.h"
#include "receipts/journal_core.h"

#define STEP_BYTES ((uint64_t)1 << 20)
#define SYNC_BYTES (8 * STEP_BYTES) /* others want the disk too */

static bool is_stopped(struct journal *journal)
{
    bool stop;

    pthread_mutex_lock(&journal->mutex);
    stop = journal->room.stop || journal->is_failed;
    pthread_mutex_unlock(&journal->mutex);
    return stop;
}

/* 0, or the number of an error. */
static int fill(struct journal *journal, int fd)
{
    for (uint64_t at = 0; at < journal->segment_bytes;) {
        uint64_t end = at + STEP_BYTES;

        if (end > journal->segment_bytes)
            end = journal->segment_bytes;
        if (is_stopped(journal))
            return ECANCELED;
        if (!journal_write_zeros(fd, at, end))
            return errno;
        at = end;
        if ((at % SYNC_BYTES == 0 || at == journal->segment_bytes) &&
            fsync(fd) != 0)
            return errno;
    }
    return 0;
}

struct attempt {
    int fd;
    struct journal_segment segment;
    int number;       /* of an error; 0: there is room */
    const char *what; /* then */
};

static void make_room(struct journal *journal, struct attempt *out)
{
    *out = (struct attempt){.fd = -1, .what = "cannot be made"};
    if (!journal_segment_reserve(&out->segment, journal->segment_bytes)) {
        out->number = ENOMEM;
        return;
    }
    out->fd = openat(journal->dir.fd, JOURNAL_NEXT_FILE,
        O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    out->number = out->fd < 0 ? errno : fill(journal, out->fd);
    if (out->number == 0)
        return;
    kv_free(out->segment.marks);
    if (out->fd < 0)
        return;
    close(out->fd);
    unlinkat(journal->dir.fd, JOURNAL_NEXT_FILE, 0);
    out->what = "cannot be filled with zeros ahead";
}

/* The mutex is held, as it is when this returns. */
static void take_attempt(struct journal *journal, struct attempt *attempt)
{
    struct journal_room *room = &journal->room;

    room->is_full = journal_is_full(attempt->number);
    if (attempt->number == 0) {
        room->fd = attempt->fd;
        room->segment = attempt->segment;
        room->is_ready = true;
    } else if (room->is_full) {
        journal_note_error(
            journal, JOURNAL_NEXT_FILE, attempt->what, attempt->number);
    }
    pthread_cond_broadcast(&journal->room_changed);
    pthread_mutex_unlock(&journal->mutex);
    if (attempt->number != 0 && attempt->number != ECANCELED &&
        !journal_is_full(attempt->number))
        journal_fail(
            journal, JOURNAL_NEXT_FILE, attempt->what, attempt->number);
    journal_wake(journal);
    pthread_mutex_lock(&journal->mutex);
}

void *journal_room_main(void *arg)
{
    struct journal *journal = arg;
    struct journal_room *room = &journal->room;
    struct attempt attempt;

    pthread_mutex_lock(&journal->mutex);
    while (!room->stop) {
        if (room->is_ready || journal->is_failed) {
            pthread_cond_wait(&journal->room_changed, &journal->mutex);
            continue;
        }
        pthread_mutex_unlock(&journal->mutex);
        make_room(journal, &attempt);
        pthread_mutex_lock(&journal->mutex);
        if (attempt.number == 0 &&
            !journal_segments_reserve(&journal->segments)) {
            close(attempt.fd);
            kv_free(attempt.segment.marks);
            attempt.number = ENOMEM;
        }
        take_attempt(journal, &attempt);
        if (room->is_full && !room->stop)
            kv_condition_wait_until(&journal->room_changed, &journal->mutex,
                kv_clock_mono_ns() + KV_NS_PER_S);
    }
    pthread_mutex_unlock(&journal->mutex);
    return NULL;
}
