#include "receipts/cosignature.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

#include "base/heap.h"
#include "receipts/checkpoint_internal.h"

#define BASE64 sodium_base64_VARIANT_ORIGINAL
#define TIME_BYTES 8
#define SIGNATURE_BYTES (CHECKPOINT_ID_BYTES + TIME_BYTES + crypto_sign_BYTES)

/* ---- keys */

enum kv_status cosignature_key_parse(
    struct checkpoint_key *out, const char *text, struct kv_error *error)
{
    return checkpoint_parse_key(out, CHECKPOINT_WITNESS, text, error);
}

enum kv_status cosignature_signer_generate(
    struct checkpoint_signer *out, const char *name, struct kv_error *error)
{
    return checkpoint_generate(out, CHECKPOINT_WITNESS, name, error);
}

enum kv_status cosignature_signer_parse(
    struct checkpoint_signer *out, const char *text, struct kv_error *error)
{
    return checkpoint_parse_signer(out, CHECKPOINT_WITNESS, text, error);
}

/* ---- what is signed */

struct message {
    char *bytes;
    size_t n;
};

/* bytes are kv_free'd; NULL: no memory. */
static struct message make_message(
    uint64_t time_unix_s, struct checkpoint_span text)
{
    char head[64];
    struct message message;
    size_t n_head = (size_t)snprintf(
        head, sizeof head, "cosignature/v1\ntime %" PRIu64 "\n", time_unix_s);

    message.n = n_head + text.n;
    message.bytes = kv_realloc(NULL, message.n);
    if (message.bytes != NULL) {
        memcpy(message.bytes, head, n_head);
        memcpy(message.bytes + n_head, text.at, text.n);
    }
    return message;
}

static void write_time(uint8_t out[TIME_BYTES], uint64_t time_unix_s)
{
    for (size_t i = 0; i < TIME_BYTES; i++)
        out[i] = (uint8_t)(time_unix_s >> (56 - 8 * i));
}

static uint64_t read_time(const uint8_t bytes[TIME_BYTES])
{
    uint64_t time_unix_s = 0;

    for (size_t i = 0; i < TIME_BYTES; i++)
        time_unix_s = time_unix_s << 8 | bytes[i];
    return time_unix_s;
}

/* ---- adding a line */

/* A line, or a run of them, behind what is there. */
static bool append(char *out, size_t *n_out, const char *bytes, size_t n)
{
    if (n > CHECKPOINT_MAX_NOTE_BYTES - *n_out)
        return false;
    memcpy(out + *n_out, bytes, n);
    *n_out += n;
    return true;
}

/* The note without lines of this key. */
static bool copy_note(const struct checkpoint_parts *note,
    const struct checkpoint_key *key, char *out, size_t *n_out)
{
    struct checkpoint_span rest = note->signatures;
    struct checkpoint_signature signature;
    bool ok = append(out, n_out, note->text.at, note->text.n + 1);

    while (ok && rest.n > 0) {
        const char *line = rest.at;

        ok = checkpoint_take_signature(&rest, &signature) &&
             (checkpoint_is_of(&signature, key) ||
                 append(out, n_out, line, (size_t)(rest.at - line)));
    }
    return ok;
}

static bool append_line(const struct checkpoint_signer *witness,
    const uint8_t signature[SIGNATURE_BYTES], char *out, size_t *n_out)
{
    char encoded[sodium_base64_ENCODED_LEN(SIGNATURE_BYTES, BASE64)];
    char line[CHECKPOINT_NAME_BYTES + sizeof encoded + 8];
    int n;

    sodium_bin2base64(
        encoded, sizeof encoded, signature, SIGNATURE_BYTES, BASE64);
    n = snprintf(line, sizeof line, CHECKPOINT_DASH "%s %s\n",
        witness->key.name, encoded);
    return append(out, n_out, line, (size_t)n);
}

enum kv_status cosignature_add(const struct checkpoint_signer *witness,
    uint64_t time_unix_s, const void *note, size_t n_bytes, char *out,
    size_t *n_out, struct kv_error *error)
{
    uint8_t signature[SIGNATURE_BYTES];
    struct checkpoint_parts parts;
    struct message message;
    enum kv_status status;

    if (!checkpoint_start(error))
        return KV_IO;
    status = checkpoint_split(note, n_bytes, &parts, error);
    if (status != KV_OK)
        return status;
    message = make_message(time_unix_s, parts.text);
    if (message.bytes == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory to sign a note");
    memcpy(signature, witness->key.id, CHECKPOINT_ID_BYTES);
    write_time(signature + CHECKPOINT_ID_BYTES, time_unix_s);
    crypto_sign_detached(signature + CHECKPOINT_ID_BYTES + TIME_BYTES, NULL,
        (const unsigned char *)message.bytes, message.n, witness->secret);
    kv_free(message.bytes);
    *n_out = 0;
    if (!copy_note(&parts, &witness->key, out, n_out) ||
        !append_line(witness, signature, out, n_out))
        return kv_error_set(error, KV_INVALID,
            "the note has a line that is no signature, or would be larger than "
            "%d bytes",
            CHECKPOINT_MAX_NOTE_BYTES);
    return KV_OK;
}

/* ---- verifying */

static enum kv_status check_line(const struct checkpoint_signature *signature,
    struct checkpoint_span text, const struct checkpoint_key *witness,
    uint64_t *time_unix_s, struct kv_error *error)
{
    struct message message;
    bool is_right;

    if (signature->n_bytes != SIGNATURE_BYTES)
        return kv_error_set(error, KV_INVALID,
            "the cosignature of %s is not one of version 1", witness->name);
    *time_unix_s = read_time(signature->bytes + CHECKPOINT_ID_BYTES);
    message = make_message(*time_unix_s, text);
    if (message.bytes == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "no memory to read a note");
    is_right = *time_unix_s <= INT64_MAX &&
               crypto_sign_verify_detached(
                   signature->bytes + CHECKPOINT_ID_BYTES + TIME_BYTES,
                   (const unsigned char *)message.bytes, message.n,
                   witness->public_key) == 0;
    kv_free(message.bytes);
    if (is_right)
        return KV_OK;
    return kv_error_set(
        error, KV_INVALID, "the cosignature of %s is not right", witness->name);
}

/* Every line is looked at; *last_s becomes the newest time. */
static enum kv_status check_lines(const struct checkpoint_parts *note,
    const struct checkpoint_key *witness, uint64_t *last_s, bool *found,
    struct kv_error *error)
{
    struct checkpoint_span rest = note->signatures;
    struct checkpoint_signature signature;

    for (size_t n = 0; rest.n > 0; n++) {
        uint64_t time_s = 0;
        enum kv_status status;

        if (n == CHECKPOINT_MAX_SIGNATURES ||
            !checkpoint_take_signature(&rest, &signature))
            return kv_error_set(error, KV_INVALID,
                "line %zu behind the note's text is no signature, or one too "
                "many",
                n + 1);
        if (!checkpoint_is_of(&signature, witness))
            continue;
        status = check_line(&signature, note->text, witness, &time_s, error);
        if (status != KV_OK)
            return status;
        if (!*found || time_s > *last_s)
            *last_s = time_s;
        *found = true;
    }
    return KV_OK;
}

enum kv_status cosignature_verify(const void *note, size_t n_bytes,
    const struct checkpoint_key *witness, uint64_t *time_unix_s,
    struct kv_error *error)
{
    struct checkpoint_parts parts;
    bool found = false;
    uint64_t last_s = 0;
    enum kv_status status;

    if (!checkpoint_start(error))
        return KV_IO;
    status = checkpoint_split(note, n_bytes, &parts, error);
    if (status == KV_OK)
        status = check_lines(&parts, witness, &last_s, &found, error);
    if (status != KV_OK)
        return status;
    if (!found)
        return kv_error_set(error, KV_NOT_FOUND,
            "the checkpoint is not cosigned by the witness %s",
            checkpoint_key_format(witness).s);
    *time_unix_s = last_s;
    return KV_OK;
}
