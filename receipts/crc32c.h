/* CRC-32C (Castagnoli; RFC 3720, B.4), by the processor's instruction where it
 * has one. Thread: any. */
#ifndef RECEIPTS_CRC32C_H
#define RECEIPTS_CRC32C_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of these bytes behind those that gave `crc`; 0 begins. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t n);

/* The two ways to the same number, for tests. */
uint32_t crc32c_portable(uint32_t crc, const void *bytes, size_t n);
bool crc32c_has_instruction(void);
/* Only where there is one. */
uint32_t crc32c_instruction(uint32_t crc, const void *bytes, size_t n);

#endif
