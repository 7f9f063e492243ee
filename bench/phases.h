/* Where a step's time goes: a clock around every round of the team and every
 * chunk in it, for bench_engine.
 *
 *     phases_open ─> phases_watch(true) ─> steps ─> phases_watch(false)
 *                        └─> phases_print ─> phases_close
 *
 * The engine has nothing of it: the program is linked so that what calls
 * team_each calls this first (-Wl,--wrap=team_each). A step is known by the
 * order of its rounds (engine/forward.c), all of whose tokens must be wanted.
 *
 * One thread at a time; the team's threads count what they compute. */
#ifndef BENCH_PHASES_H
#define BENCH_PHASES_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/model.h"

/* Borrowed until phases_close. Ends the program where there is no memory. */
void phases_open(const struct model *model, uint32_t n_threads);
void phases_close(void);

/* Nothing is counted while nobody watches. Begins anew. */
void phases_watch(bool watches);

/* Bytes of a weight as the kernels read it. */
double phases_weight_bytes(const struct weight *weight);

/* A table to stdout, of milliseconds a step: each round's least over the steps,
 * and the mean, added up by phase; bytes of weights a second at the least; and
 * the share of the threads' time in which they computed. */
void phases_print(const char *row);

#endif
