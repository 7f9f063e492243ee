/* A receipt on one line for a person: who lost what, why, where, how much, and
 * what it did to the pool. Any thread. */
#ifndef CLI_RECEIPT_TEXT_H
#define CLI_RECEIPT_TEXT_H

#include <stdio.h>

#include "kvpool/v1/receipts.pb-c.h"

/* Without the line's end. Whatever the receipt holds, it stays one line. */
void receipt_text_write(FILE *out, const Kvpool__V1__Receipt *receipt);

/* "acme/chat-7", "chat-7" of the default tenant, "a request without a session";
 * harmless. */
void receipt_text_session(
    FILE *out, const char *tenant, const char *session_id);

#endif
