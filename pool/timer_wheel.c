#include "pool/timer_wheel.h"

#include <stddef.h>

#define DIGIT_BITS 6
#define PLACE_NONE 0
#define PLACE_DUE 1
#define MAX_TICK ((UINT64_C(1) << 48) - 1)
#define MAX_PLACE 0xffff
#define PLACE_SLOTS 2 /* and on: level * TIMER_SLOTS + slot */

void timer_wheel_init(struct timer_wheel *wheel, int64_t now_ns)
{
    wheel->now_tick = (uint64_t)now_ns >> TIMER_TICK_BITS;
    for (int level = 0; level < TIMER_LEVELS; level++) {
        wheel->occupied[level] = 0;
        for (int slot = 0; slot < TIMER_SLOTS; slot++)
            kv_list_init(&wheel->slots[level][slot]);
    }
    kv_list_init(&wheel->due);
}

static void place(struct timer_wheel *wheel, struct timer *timer)
{
    unsigned level, slot;

    if (timer->tick <= wheel->now_tick) {
        timer->place = PLACE_DUE;
        kv_list_append(&wheel->due, &timer->link);
        return;
    }
    level = (63 - (unsigned)__builtin_clzll(timer->tick ^ wheel->now_tick)) /
            DIGIT_BITS;
    slot = timer->tick >> (level * DIGIT_BITS) & (TIMER_SLOTS - 1);
    timer->place = (PLACE_SLOTS + level * TIMER_SLOTS + slot) & MAX_PLACE;
    wheel->occupied[level] |= UINT64_C(1) << slot;
    kv_list_append(&wheel->slots[level][slot], &timer->link);
}

static uint64_t tick_after(int64_t due_ns)
{
    const uint64_t part_of_tick = (UINT64_C(1) << TIMER_TICK_BITS) - 1;

    return ((uint64_t)due_ns + part_of_tick) >> TIMER_TICK_BITS;
}

void timer_wheel_set(
    struct timer_wheel *wheel, struct timer *timer, int64_t due_ns)
{
    timer_wheel_cancel(wheel, timer);
    timer->tick = tick_after(due_ns) & MAX_TICK;
    place(wheel, timer);
}

void timer_wheel_cancel(struct timer_wheel *wheel, struct timer *timer)
{
    unsigned at = timer->place;

    if (at == PLACE_NONE)
        return;
    kv_list_remove(&timer->link);
    timer->place = PLACE_NONE;
    if (at >= PLACE_SLOTS) {
        unsigned level = (at - PLACE_SLOTS) / TIMER_SLOTS;
        unsigned slot = (at - PLACE_SLOTS) % TIMER_SLOTS;

        if (kv_list_empty(&wheel->slots[level][slot]))
            wheel->occupied[level] &= ~(UINT64_C(1) << slot);
    }
}

bool timer_is_set_by(const struct timer *timer, int64_t due_ns)
{
    return due_ns == INT64_MAX ||
           (timer->place != PLACE_NONE && timer->tick <= tick_after(due_ns));
}

/* The slots of a level that time passes on its way from one digit string to a
 * later one, the last one included. */
static uint64_t slots_passed(uint64_t from, uint64_t to)
{
    unsigned start = (unsigned)(from + 1) & (TIMER_SLOTS - 1);
    uint64_t ones;

    if (to - from >= TIMER_SLOTS)
        return UINT64_MAX;
    ones = (UINT64_C(1) << (to - from)) - 1;
    return ones << start | (start == 0 ? 0 : ones >> (TIMER_SLOTS - start));
}

static void move_all(struct kv_list *to, struct kv_list *from)
{
    KV_LIST_EACH (node, from) {
        kv_list_remove(node);
        kv_list_append(to, node);
    }
}

/* Gathers the timers of a level that time passes. Slots go in the order of time
 * within one turn of the level; no timer waits for longer than that. */
static void gather(struct timer_wheel *wheel, int level, uint64_t from,
    uint64_t to, struct kv_list *passed)
{
    uint64_t slots = wheel->occupied[level] & slots_passed(from, to);

    wheel->occupied[level] &= ~slots;
    while (slots != 0) {
        int slot = __builtin_ctzll(slots);

        slots &= slots - 1;
        move_all(passed, &wheel->slots[level][slot]);
    }
}

void timer_wheel_advance(struct timer_wheel *wheel, int64_t now_ns)
{
    uint64_t to = (uint64_t)now_ns >> TIMER_TICK_BITS, from = wheel->now_tick;
    struct kv_list passed;

    if (to <= from)
        return;
    kv_list_init(&passed);
    wheel->now_tick = to;
    for (int level = 0; level < TIMER_LEVELS && from != to; level++) {
        gather(wheel, level, from, to, &passed);
        from >>= DIGIT_BITS;
        to >>= DIGIT_BITS;
    }
    KV_LIST_EACH (node, &passed) {
        kv_list_remove(node);
        place(wheel, KV_LIST_ENTRY(node, struct timer, link));
    }
}

struct timer *timer_wheel_take_due(struct timer_wheel *wheel)
{
    struct timer *timer;

    if (kv_list_empty(&wheel->due))
        return NULL;
    timer = KV_LIST_ENTRY(wheel->due.next, struct timer, link);
    timer_wheel_cancel(wheel, timer);
    return timer;
}

static int64_t tick_ns(uint64_t tick)
{
    return tick > (uint64_t)INT64_MAX >> TIMER_TICK_BITS
               ? INT64_MAX
               : (int64_t)(tick << TIMER_TICK_BITS);
}

int64_t timer_wheel_next_ns(const struct timer_wheel *wheel)
{
    if (!kv_list_empty(&wheel->due))
        return tick_ns(wheel->now_tick);
    /* What lies on a lower level comes first: it shares more digits with now.
     */
    for (unsigned level = 0; level < TIMER_LEVELS; level++) {
        unsigned shift = level * DIGIT_BITS;
        uint64_t digits = wheel->now_tick >> shift;

        if (wheel->occupied[level] == 0)
            continue;
        digits &= ~(uint64_t)(TIMER_SLOTS - 1);
        digits |= (uint64_t)__builtin_ctzll(wheel->occupied[level]);
        return tick_ns(digits << shift);
    }
    return INT64_MAX;
}
