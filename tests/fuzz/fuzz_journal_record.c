/* libFuzzer: bytes of a journal. A record's checksum would stop nearly all of
 * what a fuzzer makes, so the bytes are taken as records once as they are, and
 * once as the fields and payload of a record that is then written, read again,
 * and must be the same. The heads of files are read too. */
#include <stdint.h>
#include <string.h>

#include "receipts/journal_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void read_records(const uint8_t *data, size_t n)
{
    struct journal_record record;
    struct journal_commit commit;

    for (size_t at = 0; at < n; at += record.n_bytes) {
        if (journal_record_parse(data + at, n - at, 0, &record) !=
            JOURNAL_PARSED)
            return;
        if (record.n_bytes > n - at ||
            record.payload + record.n_payload > data + n)
            __builtin_trap();
        if (record.type == JOURNAL_COMMIT)
            (void)journal_commit_parse(&record, &commit);
    }
}

static void write_record(const uint8_t *data, size_t n)
{
    static unsigned char
        bytes[JOURNAL_RECORD_BYTES + JOURNAL_MAX_PAYLOAD_BYTES + 8];
    struct journal_record record, read;
    size_t n_bytes;

    if (n < JOURNAL_RECORD_BYTES ||
        n - JOURNAL_RECORD_BYTES > JOURNAL_MAX_PAYLOAD_BYTES)
        return;
    journal_record_peek(data, &record);
    record.type = (uint8_t)(JOURNAL_RECEIPT + record.type % JOURNAL_CURSOR);
    record.n_payload = n - JOURNAL_RECORD_BYTES;
    n_bytes = journal_record_write(bytes, &record, 1);
    if (journal_record_parse(bytes, n_bytes, 1, &read) != JOURNAL_PARSED ||
        journal_record_parse(bytes, n_bytes - 1, 1, &read) != JOURNAL_SHORT ||
        read.sequence != record.sequence || read.epoch != record.epoch ||
        read.flags != record.flags || read.type != record.type ||
        read.n_payload != record.n_payload ||
        memcmp(read.payload, record.payload, read.n_payload) != 0)
        __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct journal_identity identity;
    struct journal_header header;
    const char *why;

    read_records(data, n);
    write_record(data, n);
    (void)journal_header_parse(data, n, &header, &why);
    (void)journal_identity_parse(data, n, &identity, &why);
    return 0;
}
