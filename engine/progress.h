/* How far a long step of loading a model is, for a person who waits. */
#ifndef ENGINE_PROGRESS_H
#define ENGINE_PROGRESS_H

#include <stdint.h>

/* `stage` says what is done ("reading", "packing weights") and is a constant;
 * n_done of n_all grows to n_all. Called by one thread at a time, which waits
 * for it, though not always the same. */
struct progress {
    void (*report)(
        void *ctx, const char *stage, uint64_t n_done, uint64_t n_all);
    void *ctx;
};

#endif
