/* The bytes of a journal, and nothing but bytes: no file is met here. All
 * numbers are little-endian.
 *
 *   segment     header | group | group | ... | zeros
 *   group       receipts and cursors, then their commit
 *   record      len u32 | crc32c u32 | sequence u64 | epoch u32 | type u8 |
 *               version u8 | flags u16 | payload | zeros up to a multiple of 8
 *
 * A record's CRC covers all of it but itself, padding included, and begins with
 * a random number of the segment's: what a disk still had of another file never
 * passes for a record. `flags` is the low half of the number of its group.
 *
 *   ledger      which ledger this is, and what was there when this was last
 *               written: less than that is a loss
 *
 * Parsing takes any bytes. Thread: any. */
#ifndef RECEIPTS_JOURNAL_FORMAT_H
#define RECEIPTS_JOURNAL_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JOURNAL_VERSION 1

/* ---- records */

#define JOURNAL_RECORD_BYTES 24 /* before the payload */
#define JOURNAL_MAX_PAYLOAD_BYTES 65536

enum journal_record_type {
    JOURNAL_RECEIPT = 1,    /* sequence: its own; payload: as issued */
    JOURNAL_COMMIT = 2,     /* sequence: the last; payload: journal_commit */
    JOURNAL_CHECKPOINT = 3, /* sequence: size of the tree; payload: a note */
    JOURNAL_CURSOR = 4,     /* sequence: reached; payload: 1, then the name;
                               0, then the name: dropped */
};

struct journal_record {
    uint64_t sequence;
    uint32_t epoch;
    uint16_t flags;
    uint8_t type;
    const unsigned char *payload;
    size_t n_payload;
    size_t n_bytes; /* of the whole record */
};

/* Bytes of a record with such a payload. */
size_t journal_record_bytes(size_t n_payload);

/* Writes it and says how many bytes it has. at may hold the payload already, in
 * its place. */
size_t journal_record_write(
    unsigned char *at, const struct journal_record *record, uint32_t seed);

enum journal_parse {
    JOURNAL_PARSED,
    JOURNAL_SHORT,   /* the bytes end before the record does */
    JOURNAL_DAMAGED, /* no record begins here */
};

enum journal_parse journal_record_parse(const unsigned char *bytes, size_t n,
    uint32_t seed, struct journal_record *out);

/* The same of a record that was parsed before: believes it. */
void journal_record_peek(
    const unsigned char *bytes, struct journal_record *out);

#define JOURNAL_COMMIT_BYTES 32 /* of its payload */

struct journal_commit {
    uint64_t group;
    uint64_t first_sequence; /* of its receipts; the next one's if none */
    uint32_t n_receipts;
    uint32_t n_records; /* receipts and cursors */
    int64_t time_unix_ns;
};

void journal_commit_write(
    unsigned char *at, const struct journal_commit *commit);
/* false: not of that length. */
bool journal_commit_parse(
    const struct journal_record *record, struct journal_commit *out);

/* ---- the head of a segment */

#define JOURNAL_HEADER_BYTES 96

struct journal_header {
    uint64_t id; /* random */
    uint8_t pool_id[16];
    uint64_t first_sequence;
    uint64_t first_group;
    uint64_t reserved_bytes; /* the file's length until it is closed */
    uint32_t epoch;
};

void journal_header_write(
    unsigned char *at, const struct journal_header *header);
/* false, and *why says in words: it is none of this version. */
bool journal_header_parse(const unsigned char *bytes, size_t n,
    struct journal_header *out, const char **why);

/* What the CRCs of its records begin with. */
uint32_t journal_seed(uint64_t id);

/* ---- the identity */

#define JOURNAL_IDENTITY_BYTES 96

struct journal_identity {
    uint8_t pool_id[16];
    uint32_t epoch; /* of the last start */
    bool clean;     /* that ended in order */
    /* What was there when this was written: at that start, when a segment was
     * closed since, or at the end. */
    uint64_t last_sequence;
    uint64_t last_group;
    uint64_t notes_bytes; /* of the file of checkpoints */
    uint8_t root[32];     /* of the tree of the receipts up to last_sequence */
};

void journal_identity_write(
    unsigned char *at, const struct journal_identity *identity);
bool journal_identity_parse(const unsigned char *bytes, size_t n,
    struct journal_identity *out, const char **why);

/* What the CRCs of the checkpoints' records begin with. */
uint32_t journal_notes_seed(const uint8_t pool_id[16]);

#endif
