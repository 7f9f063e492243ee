/* Something that may take long, done without holding up the owner: by a thread
 * of libuv's pool.
 *
 *   work_do ─> run (any thread) ─> done (the owner's)
 *
 * Embed in the struct that the work is about, which lives until done. The
 * server counts what is under way; a call that waits for its work is what keeps
 * the server from closing before it.
 *
 * Thread: the owner's, but for run. */
#ifndef SERVER_WORK_H
#define SERVER_WORK_H

#include <stdbool.h>

#include <uv.h>

struct server;

struct work {
    void (*run)(struct work *work);

    /* ran is false if the work was given up before a thread had begun it. */
    void (*done)(struct work *work, bool ran);

    struct server *server;
    uv_work_t request;
};

/* What is short is done at once: both functions are called before this returns.
 */
void work_do(struct server *server, struct work *work, bool is_long);

/* Work that was not begun is given up: done follows, later. What is being done
 * goes on. Only between a long work_do and its done. */
void work_give_up(struct work *work);

#endif
