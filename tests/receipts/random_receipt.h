/* Receipts of every kind with every field at random, from the contract's own
 * descriptors: zeros, extremes, absent messages, empty lists among them. */
#ifndef TESTS_RECEIPTS_RANDOM_RECEIPT_H
#define TESTS_RECEIPTS_RANDOM_RECEIPT_H

#include "kvpool/v1/receipts.pb-c.h"

/* Uses rand(). Free with kvpool__v1__receipt__free_unpacked. */
Kvpool__V1__Receipt *random_receipt(void);

#endif
