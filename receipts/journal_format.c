#include "receipts/journal_format.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#include "receipts/crc32c.h"

#define CRC_AT 4
#define PAYLOAD_ALIGN 8

/* ---- numbers */

static void put16(unsigned char *at, uint16_t value)
{
    value = htole16(value);
    memcpy(at, &value, sizeof value);
}

static void put32(unsigned char *at, uint32_t value)
{
    value = htole32(value);
    memcpy(at, &value, sizeof value);
}

static void put64(unsigned char *at, uint64_t value)
{
    value = htole64(value);
    memcpy(at, &value, sizeof value);
}

static uint16_t get16(const unsigned char *at)
{
    uint16_t value;

    memcpy(&value, at, sizeof value);
    return le16toh(value);
}

static uint32_t get32(const unsigned char *at)
{
    uint32_t value;

    memcpy(&value, at, sizeof value);
    return le32toh(value);
}

static uint64_t get64(const unsigned char *at)
{
    uint64_t value;

    memcpy(&value, at, sizeof value);
    return le64toh(value);
}

/* ---- records */

size_t journal_record_bytes(size_t n_payload)
{
    size_t n = JOURNAL_RECORD_BYTES + n_payload;

    return (n + PAYLOAD_ALIGN - 1) / PAYLOAD_ALIGN * PAYLOAD_ALIGN;
}

static uint32_t record_crc(const unsigned char *at, size_t n, uint32_t seed)
{
    uint32_t crc = crc32c(seed, at, CRC_AT);

    return crc32c(crc, at + CRC_AT + 4, n - CRC_AT - 4);
}

size_t journal_record_write(
    unsigned char *at, const struct journal_record *record, uint32_t seed)
{
    size_t n = journal_record_bytes(record->n_payload);
    size_t n_used = JOURNAL_RECORD_BYTES + record->n_payload;

    assert(record->n_payload <= JOURNAL_MAX_PAYLOAD_BYTES);
    put32(at, (uint32_t)record->n_payload);
    put64(at + 8, record->sequence);
    put32(at + 16, record->epoch);
    at[20] = record->type;
    at[21] = JOURNAL_VERSION;
    put16(at + 22, record->flags);
    if (record->payload != at + JOURNAL_RECORD_BYTES)
        memcpy(at + JOURNAL_RECORD_BYTES, record->payload, record->n_payload);
    memset(at + n_used, 0, n - n_used);
    put32(at + CRC_AT, record_crc(at, n, seed));
    return n;
}

void journal_record_peek(const unsigned char *bytes, struct journal_record *out)
{
    *out = (struct journal_record){
        .sequence = get64(bytes + 8),
        .epoch = get32(bytes + 16),
        .flags = get16(bytes + 22),
        .type = bytes[20],
        .payload = bytes + JOURNAL_RECORD_BYTES,
        .n_payload = get32(bytes),
        .n_bytes = journal_record_bytes(get32(bytes)),
    };
}

enum journal_parse journal_record_parse(const unsigned char *bytes, size_t n,
    uint32_t seed, struct journal_record *out)
{
    struct journal_record record;

    if (n < JOURNAL_RECORD_BYTES)
        return JOURNAL_SHORT;
    if (get32(bytes) > JOURNAL_MAX_PAYLOAD_BYTES)
        return JOURNAL_DAMAGED;
    journal_record_peek(bytes, &record);
    if (bytes[21] != JOURNAL_VERSION || record.type < JOURNAL_RECEIPT ||
        record.type > JOURNAL_CURSOR)
        return JOURNAL_DAMAGED;
    if (record.n_bytes > n)
        return JOURNAL_SHORT;
    if (record_crc(bytes, record.n_bytes, seed) != get32(bytes + CRC_AT))
        return JOURNAL_DAMAGED;
    *out = record;
    return JOURNAL_PARSED;
}

void journal_commit_write(
    unsigned char *at, const struct journal_commit *commit)
{
    put64(at, commit->group);
    put64(at + 8, commit->first_sequence);
    put32(at + 16, commit->n_receipts);
    put32(at + 20, commit->n_records);
    put64(at + 24, (uint64_t)commit->time_unix_ns);
}

bool journal_commit_parse(
    const struct journal_record *record, struct journal_commit *out)
{
    const unsigned char *at = record->payload;

    if (record->n_payload != JOURNAL_COMMIT_BYTES)
        return false;
    *out = (struct journal_commit){
        .group = get64(at),
        .first_sequence = get64(at + 8),
        .n_receipts = get32(at + 16),
        .n_records = get32(at + 20),
        .time_unix_ns = (int64_t)get64(at + 24),
    };
    return true;
}

/* ---- files' heads: eight bytes of magic, the version, ..., a CRC at the end
 */

#define MAGIC_BYTES 8

static const char segment_magic[MAGIC_BYTES] = {
    'k', 'v', 'p', 's', 'e', 'g', '\r', '\n'};
static const char identity_magic[MAGIC_BYTES] = {
    'k', 'v', 'p', 'l', 'e', 'd', '\r', '\n'};

static void seal(unsigned char *at, size_t n, const char *magic)
{
    memcpy(at, magic, MAGIC_BYTES);
    put32(at + MAGIC_BYTES, JOURNAL_VERSION);
    put32(at + n - 4, crc32c(0, at, n - 4));
}

/* NULL: all is well. */
static const char *find_fault(
    const unsigned char *at, size_t n, size_t n_expected, const char *magic)
{
    if (n < n_expected)
        return "the file ends within its head";
    if (memcmp(at, magic, MAGIC_BYTES) != 0)
        return "the file does not begin as one of a journal";
    if (crc32c(0, at, n_expected - 4) != get32(at + n_expected - 4))
        return "the CRC of the file's head is wrong";
    if (get32(at + MAGIC_BYTES) != JOURNAL_VERSION)
        return "the file is of a version that this program does not know";
    return NULL;
}

void journal_header_write(
    unsigned char *at, const struct journal_header *header)
{
    memset(at, 0, JOURNAL_HEADER_BYTES);
    put32(at + 12, header->epoch);
    put64(at + 16, header->id);
    memcpy(at + 24, header->pool_id, sizeof header->pool_id);
    put64(at + 40, header->first_sequence);
    put64(at + 48, header->first_group);
    put64(at + 56, header->reserved_bytes);
    seal(at, JOURNAL_HEADER_BYTES, segment_magic);
}

bool journal_header_parse(const unsigned char *bytes, size_t n,
    struct journal_header *out, const char **why)
{
    *why = find_fault(bytes, n, JOURNAL_HEADER_BYTES, segment_magic);
    if (*why != NULL)
        return false;
    *out = (struct journal_header){
        .id = get64(bytes + 16),
        .first_sequence = get64(bytes + 40),
        .first_group = get64(bytes + 48),
        .reserved_bytes = get64(bytes + 56),
        .epoch = get32(bytes + 12),
    };
    memcpy(out->pool_id, bytes + 24, sizeof out->pool_id);
    return true;
}

uint32_t journal_seed(uint64_t id)
{
    unsigned char bytes[8];

    put64(bytes, id);
    return crc32c(0, bytes, sizeof bytes);
}

void journal_identity_write(
    unsigned char *at, const struct journal_identity *identity)
{
    memset(at, 0, JOURNAL_IDENTITY_BYTES);
    put32(at + 12, identity->epoch);
    memcpy(at + 16, identity->pool_id, sizeof identity->pool_id);
    put64(at + 32, identity->last_sequence);
    put64(at + 40, identity->last_group);
    put64(at + 48, identity->notes_bytes);
    memcpy(at + 56, identity->root, sizeof identity->root);
    put32(at + 88, identity->clean);
    seal(at, JOURNAL_IDENTITY_BYTES, identity_magic);
}

bool journal_identity_parse(const unsigned char *bytes, size_t n,
    struct journal_identity *out, const char **why)
{
    *why = find_fault(bytes, n, JOURNAL_IDENTITY_BYTES, identity_magic);
    if (*why != NULL)
        return false;
    *out = (struct journal_identity){
        .epoch = get32(bytes + 12),
        .clean = get32(bytes + 88) != 0,
        .last_sequence = get64(bytes + 32),
        .last_group = get64(bytes + 40),
        .notes_bytes = get64(bytes + 48),
    };
    memcpy(out->pool_id, bytes + 16, sizeof out->pool_id);
    memcpy(out->root, bytes + 56, sizeof out->root);
    return true;
}

uint32_t journal_notes_seed(const uint8_t pool_id[16])
{
    return crc32c(0, pool_id, 16);
}
