/* A heap that fails when told to and knows what has not been given back. Safe
 * to allocate from on several threads. */
#ifndef TESTS_SUPPORT_FAULTY_HEAP_H
#define TESTS_SUPPORT_FAULTY_HEAP_H

#include <stddef.h>

void faulty_heap_install(void);

/* The nth call from now fails, and every one after it until told otherwise; 0
 * is the next call, -1 is never. */
void faulty_heap_fail_at(int nth);

int faulty_heap_live(void);     /* allocations not yet freed, */
size_t faulty_heap_bytes(void); /* and their bytes, as malloc rounds them */
int faulty_heap_calls(void);    /* allocations asked for since install */

#endif
