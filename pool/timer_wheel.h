/* Timers on a hierarchical wheel: setting, cancelling and firing are O(1).
 *
 * Time is cut into ticks of 2^20 ns (about 1 ms). Level 0 has a slot for each
 * of the next 64 ticks, level 1 for each of the next 64 * 64, and so on up to
 * the end of time. A timer lies on the level of the highest digit (base 64) in
 * which its tick differs from now; when time reaches its slot there it moves to
 * a lower level, or is due. A timer is never due early, and late by less than a
 * tick. The same calls fire the same timers in the same order. */
#ifndef POOL_TIMER_WHEEL_H
#define POOL_TIMER_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

#define TIMER_TICK_BITS 20
#define TIMER_LEVELS 8
#define TIMER_SLOTS 64

/* Embed it; zeroed, it is not set. */
struct timer {
    uint64_t tick : 48;  /* of at most 2^43, as times have 63 bits */
    uint64_t place : 16; /* 0: not set */
    struct kv_list link;
};

struct timer_wheel {
    uint64_t now_tick;
    uint64_t occupied[TIMER_LEVELS]; /* a bit for each slot */
    struct kv_list slots[TIMER_LEVELS][TIMER_SLOTS];
    struct kv_list due;
};

/* Times are nanoseconds, at least 0. */
void timer_wheel_init(struct timer_wheel *wheel, int64_t now_ns);

/* Also of a timer that is set already. */
void timer_wheel_set(
    struct timer_wheel *wheel, struct timer *timer, int64_t due_ns);

/* Also of a timer that is not set, or due. */
void timer_wheel_cancel(struct timer_wheel *wheel, struct timer *timer);

/* Whether it is set and fires by that time, to the tick; also if that time is
 * INT64_MAX, which is never. */
bool timer_is_set_by(const struct timer *timer, int64_t due_ns);

/* Moves time forward; earlier than before is ignored. */
void timer_wheel_advance(struct timer_wheel *wheel, int64_t now_ns);

/* The next timer that is due at the time of the last advance, no longer set;
 * NULL if there is none. */
struct timer *timer_wheel_take_due(struct timer_wheel *wheel);

/* When to advance next: no timer is due before, and after at most TIMER_LEVELS
 * such steps the next one is. INT64_MAX if none is set. */
int64_t timer_wheel_next_ns(const struct timer_wheel *wheel);

#endif
