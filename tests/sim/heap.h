/* A heap that runs dry for a while: in the pool, and not in who listens to it.
 */
#ifndef TESTS_SIM_HEAP_H
#define TESTS_SIM_HEAP_H

#include <stdbool.h>
#include <stdint.h>

/* The nth allocation from now fails, from 1, and all after it. */
void heap_starve(uint32_t nth);
/* There is enough again. Returns whether something was refused. */
bool heap_feed(void);

/* In between allocations neither fail nor count. */
void heap_pause(void);
void heap_go_on(void);

#endif
