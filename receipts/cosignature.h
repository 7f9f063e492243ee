/* Cosignatures: "I have seen this checkpoint, and every one that I saw before
 * is a prefix of it", said by a witness in the same note.
 *
 *     kvpool/5b0d..e1
 *     20852163
 *     CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
 *
 *     — kvpool/5b0d..e1 Az3grlgtzPICa5OS8npVmf1M...          the ledger
 *     — witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRa...   the witness, when
 *
 * The format is C2SP's tlog-cosignature, version 1 with Ed25519: what is signed
 * is "cosignature/v1", the time, and the note's text. Keys have the text forms
 * of checkpoint.h with 0x04 in place of 0x01; struct checkpoint_signer and
 * checkpoint_signer_fini, checkpoint_key_format and checkpoint_signer_format
 * serve both.
 *
 * Thread: any. */
#ifndef RECEIPTS_COSIGNATURE_H
#define RECEIPTS_COSIGNATURE_H

#include "receipts/checkpoint.h"

/* ---- keys of witnesses; failures are those of checkpoint.h */

enum kv_status cosignature_key_parse(
    struct checkpoint_key *out, const char *text, struct kv_error *error);
enum kv_status cosignature_signer_generate(
    struct checkpoint_signer *out, const char *name, struct kv_error *error);
enum kv_status cosignature_signer_parse(
    struct checkpoint_signer *out, const char *text, struct kv_error *error);

/* ---- notes */

/* The note with the witness's line behind its others, and without one that it
 * had of the same key. The bytes are the caller's, CHECKPOINT_MAX_NOTE_BYTES.
 * KV_INVALID: it is no note, or has no room for a line more. KV_IO: the library
 * of the cryptography cannot start. */
enum kv_status cosignature_add(const struct checkpoint_signer *witness,
    uint64_t time_unix_s, const void *note, size_t n_bytes, char *out,
    size_t *n_out, struct kv_error *error);

/* Whether the witness has cosigned the note, and when at last. Whether the
 * ledger has signed it is checkpoint_verify's question.
 *   KV_INVALID    no note, or a line of the witness that is not right
 *   KV_NOT_FOUND  the witness has not cosigned it
 *   KV_IO         the library of the cryptography cannot start */
enum kv_status cosignature_verify(const void *note, size_t n_bytes,
    const struct checkpoint_key *witness, uint64_t *time_unix_s,
    struct kv_error *error);

#endif
