#include "receipts/checkpoint_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <sodium.h>

#include "base/utf8.h"

#define PRIVATE_PREFIX "PRIVATE+KEY+"
#define DASH CHECKPOINT_DASH
#define BASE64 sodium_base64_VARIANT_ORIGINAL
#define ID_BYTES CHECKPOINT_ID_BYTES
#define SIGNATURE_BYTES (ID_BYTES + crypto_sign_BYTES)

_Static_assert(sizeof((struct checkpoint_key *)0)->public_key ==
                   crypto_sign_PUBLICKEYBYTES,
    "Ed25519");
_Static_assert(
    sizeof((struct checkpoint_signer *)0)->secret == crypto_sign_SECRETKEYBYTES,
    "Ed25519");

/* Cuts what is before the mark off the front, and the mark. */
static bool cut(
    struct checkpoint_span *text, char mark, struct checkpoint_span *out)
{
    const char *end = text->n > 0 ? memchr(text->at, mark, text->n) : NULL;

    if (end == NULL)
        return false;
    *out = (struct checkpoint_span){text->at, (size_t)(end - text->at)};
    text->at += out->n + 1;
    text->n -= out->n + 1;
    return true;
}

/* libsodium takes bytes beyond ASCII for digits, so that there would be other
 * spellings of the same. */
static bool decode_base64(struct checkpoint_span text, uint8_t *out,
    size_t max_bytes, size_t *n_bytes)
{
    for (size_t i = 0; i < text.n; i++)
        if ((unsigned char)text.at[i] > 0x7F)
            return false;
    return sodium_base642bin(out, max_bytes, text.at, text.n, NULL, n_bytes,
               NULL, BASE64) == 0;
}

bool checkpoint_start(struct kv_error *error)
{
    if (sodium_init() >= 0)
        return true;
    kv_error_set(error, KV_IO, "libsodium cannot start: no random bytes");
    return false;
}

/* ---- names */

/* Bytes of the Unicode space (White_Space) at the front of valid UTF-8; 0 if
 * there is none. */
static size_t space_length(const unsigned char *c, size_t n)
{
    if (c[0] <= 0x20 || c[0] == 0x7F)
        return 1;
    if (n >= 2 && c[0] == 0xC2 && (c[1] == 0x85 || c[1] == 0xA0))
        return 2;
    if (n < 3)
        return 0;
    if ((c[0] == 0xE1 && c[1] == 0x9A && c[2] == 0x80) ||
        (c[0] == 0xE2 && c[1] == 0x80 &&
            (c[2] <= 0x8A || c[2] == 0xA8 || c[2] == 0xA9 || c[2] == 0xAF)) ||
        (c[0] == 0xE2 && c[1] == 0x81 && c[2] == 0x9F) ||
        (c[0] == 0xE3 && c[1] == 0x80 && c[2] == 0x80))
        return 3;
    return 0;
}

static bool is_name(struct checkpoint_span text)
{
    const unsigned char *c = (const unsigned char *)text.at;

    if (text.n == 0 || text.n > CHECKPOINT_NAME_BYTES ||
        !kv_utf8_valid(text.at, text.n))
        return false;
    for (size_t i = 0; i < text.n; i++)
        if (c[i] == '+' || space_length(c + i, text.n - i) > 0)
            return false;
    return true;
}

static enum kv_status take_name(char out[CHECKPOINT_NAME_BYTES + 1],
    struct checkpoint_span text, struct kv_error *error)
{
    if (!is_name(text))
        return kv_error_set(error, KV_INVALID,
            "the key's name has %zu bytes; allowed are 1 to %d of UTF-8, no "
            "space and no plus",
            text.n, CHECKPOINT_NAME_BYTES);
    memcpy(out, text.at, text.n);
    out[text.n] = '\0';
    return KV_OK;
}

/* ---- keys */

static void fill_id(struct checkpoint_key *key)
{
    const unsigned char between[] = {'\n', key->role};
    unsigned char digest[crypto_hash_sha256_BYTES];
    crypto_hash_sha256_state state;

    crypto_hash_sha256_init(&state);
    crypto_hash_sha256_update(
        &state, (const unsigned char *)key->name, strlen(key->name));
    crypto_hash_sha256_update(&state, between, sizeof between);
    crypto_hash_sha256_update(&state, key->public_key, sizeof key->public_key);
    crypto_hash_sha256_final(&state, digest);
    memcpy(key->id, digest, sizeof key->id);
}

/* NAME+ID+BASE64, as it stands for keys and signers: the name, the id's digits,
 * and 32 bytes. The key's role is set. */
static enum kv_status split_key(struct checkpoint_span text,
    struct checkpoint_key *key, struct checkpoint_span *id, uint8_t bytes[32],
    struct kv_error *error)
{
    uint8_t typed[1 + 32];
    enum kv_status status = KV_OK;
    struct checkpoint_span name;
    size_t n_bytes = 0;

    if (!cut(&text, '+', &name) || !cut(&text, '+', id))
        return kv_error_set(error, KV_INVALID,
            "a key is NAME+ID+BASE64: a part of it is missing");
    status = take_name(key->name, name, error);
    if (status != KV_OK)
        return status;
    if (!decode_base64(text, typed, sizeof typed, &n_bytes) ||
        n_bytes != sizeof typed)
        status = kv_error_set(error, KV_INVALID,
            "the key of %s is not the base64 of an Ed25519 key", key->name);
    else if (typed[0] != key->role)
        status = kv_error_set(error, KV_INVALID,
            "the key of %s is of kind %d; a %s's Ed25519 key is of kind %d",
            key->name, typed[0],
            key->role == CHECKPOINT_WITNESS ? "witness" : "ledger", key->role);
    memcpy(bytes, typed + 1, 32);
    sodium_memzero(typed, sizeof typed);
    return status;
}

static enum kv_status check_id(struct checkpoint_key *key,
    struct checkpoint_span id, struct kv_error *error)
{
    char expected[2 * ID_BYTES + 1];

    fill_id(key);
    sodium_bin2hex(expected, sizeof expected, key->id, sizeof key->id);
    if (id.n == 2 * ID_BYTES && memcmp(expected, id.at, id.n) == 0)
        return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "the key of %s says another id than %s, which it has", key->name,
        expected);
}

enum kv_status checkpoint_parse_key(struct checkpoint_key *out,
    enum checkpoint_role role, const char *text, struct kv_error *error)
{
    struct checkpoint_span id;
    enum kv_status status;

    out->role = (uint8_t)role;
    status = split_key((struct checkpoint_span){text, strlen(text)}, out, &id,
        out->public_key, error);
    return status == KV_OK ? check_id(out, id, error) : status;
}

enum kv_status checkpoint_key_parse(
    struct checkpoint_key *out, const char *text, struct kv_error *error)
{
    return checkpoint_parse_key(out, CHECKPOINT_LOG, text, error);
}

static struct checkpoint_key_text format_key(const char *prefix,
    const struct checkpoint_key *key, const uint8_t bytes[32])
{
    uint8_t typed[1 + 32] = {key->role};
    char id[2 * ID_BYTES + 1];
    char encoded[sodium_base64_ENCODED_LEN(1 + 32, BASE64)];
    struct checkpoint_key_text text;

    memcpy(typed + 1, bytes, 32);
    sodium_bin2hex(id, sizeof id, key->id, sizeof key->id);
    sodium_bin2base64(encoded, sizeof encoded, typed, sizeof typed, BASE64);
    snprintf(
        text.s, sizeof text.s, "%s%s+%s+%s", prefix, key->name, id, encoded);
    sodium_memzero(typed, sizeof typed);
    sodium_memzero(encoded, sizeof encoded);
    return text;
}

struct checkpoint_key_text checkpoint_key_format(
    const struct checkpoint_key *key)
{
    return format_key("", key, key->public_key);
}

/* From its seed and name. */
static void complete_signer(struct checkpoint_signer *signer)
{
    crypto_sign_seed_keypair(
        signer->key.public_key, signer->secret, signer->seed);
    fill_id(&signer->key);
}

enum kv_status checkpoint_generate(struct checkpoint_signer *out,
    enum checkpoint_role role, const char *name, struct kv_error *error)
{
    enum kv_status status;

    if (!checkpoint_start(error))
        return KV_IO;
    out->key.role = (uint8_t)role;
    status = take_name(
        out->key.name, (struct checkpoint_span){name, strlen(name)}, error);
    if (status != KV_OK)
        return status;
    randombytes_buf(out->seed, sizeof out->seed);
    complete_signer(out);
    return KV_OK;
}

enum kv_status checkpoint_signer_generate(
    struct checkpoint_signer *out, const char *name, struct kv_error *error)
{
    return checkpoint_generate(out, CHECKPOINT_LOG, name, error);
}

enum kv_status checkpoint_parse_signer(struct checkpoint_signer *out,
    enum checkpoint_role role, const char *text, struct kv_error *error)
{
    const size_t n_prefix = sizeof PRIVATE_PREFIX - 1;
    enum kv_status status;
    struct checkpoint_span id;

    if (!checkpoint_start(error))
        return KV_IO;
    if (strncmp(text, PRIVATE_PREFIX, n_prefix) != 0)
        return kv_error_set(
            error, KV_INVALID, "a private key begins with " PRIVATE_PREFIX);
    text += n_prefix;
    out->key.role = (uint8_t)role;
    status = split_key((struct checkpoint_span){text, strlen(text)}, &out->key,
        &id, out->seed, error);
    if (status == KV_OK) {
        complete_signer(out);
        status = check_id(&out->key, id, error);
    }
    if (status != KV_OK)
        checkpoint_signer_fini(out);
    return status;
}

enum kv_status checkpoint_signer_parse(
    struct checkpoint_signer *out, const char *text, struct kv_error *error)
{
    return checkpoint_parse_signer(out, CHECKPOINT_LOG, text, error);
}

struct checkpoint_key_text checkpoint_signer_format(
    const struct checkpoint_signer *signer)
{
    return format_key(PRIVATE_PREFIX, &signer->key, signer->seed);
}

void checkpoint_signer_fini(struct checkpoint_signer *signer)
{
    sodium_memzero(signer, sizeof *signer);
}

void checkpoint_wipe(void *secret, size_t n_bytes)
{
    sodium_memzero(secret, n_bytes);
}

/* ---- writing a note */

struct checkpoint_origin checkpoint_origin_of(const uint8_t pool_id[16])
{
    struct checkpoint_origin origin;
    char hex[2 * 16 + 1];

    sodium_bin2hex(hex, sizeof hex, pool_id, 16);
    snprintf(origin.s, sizeof origin.s, "kvpool/%s", hex);
    return origin;
}

void checkpoint_sign(const struct checkpoint_signer *signer,
    const struct checkpoint *checkpoint, struct checkpoint_note *out)
{
    char root[sodium_base64_ENCODED_LEN(MERKLE_HASH_BYTES, BASE64)];
    char encoded[sodium_base64_ENCODED_LEN(SIGNATURE_BYTES, BASE64)];
    uint8_t signature[SIGNATURE_BYTES];
    int n_text, n_line;

    sodium_bin2base64(root, sizeof root, checkpoint->root.bytes,
        sizeof checkpoint->root.bytes, BASE64);
    n_text = snprintf(out->bytes, sizeof out->bytes, "%s\n%" PRIu64 "\n%s\n",
        checkpoint->origin, checkpoint->tree_size, root);
    memcpy(signature, signer->key.id, ID_BYTES);
    crypto_sign_detached(signature + ID_BYTES, NULL,
        (const unsigned char *)out->bytes, (unsigned long long)n_text,
        signer->secret);
    sodium_bin2base64(
        encoded, sizeof encoded, signature, sizeof signature, BASE64);
    n_line = snprintf(out->bytes + n_text, sizeof out->bytes - (size_t)n_text,
        "\n" DASH "%s %s\n", signer->key.name, encoded);
    out->n_bytes = (size_t)n_text + (size_t)n_line;
    assert(out->n_bytes < sizeof out->bytes);
}

/* ---- reading a note */

static bool has_control(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 0x20 && text[i] != '\n')
            return true;
    return false;
}

enum kv_status checkpoint_split(const void *note, size_t n,
    struct checkpoint_parts *out, struct kv_error *error)
{
    const char *bytes = note;
    size_t n_text;

    if (n > CHECKPOINT_MAX_NOTE_BYTES)
        return kv_error_set(error, KV_INVALID,
            "the note has %zu bytes; at most %d are allowed", n,
            CHECKPOINT_MAX_NOTE_BYTES);
    if (!kv_utf8_valid(bytes, n) || has_control(bytes, n))
        return kv_error_set(error, KV_INVALID,
            "the note is not UTF-8 without control characters");
    /* The last empty line. */
    for (n_text = n; n_text >= 2; n_text--)
        if (bytes[n_text - 1] == '\n' && bytes[n_text - 2] == '\n')
            break;
    if (n_text < 2 || n_text == n || bytes[n - 1] != '\n')
        return kv_error_set(error, KV_INVALID,
            "the note is not a text, an empty line and signature lines");
    *out = (struct checkpoint_parts){.text = {bytes, n_text - 1},
        .signatures = {bytes + n_text, n - n_text}};
    return KV_OK;
}

/* Decimal, without leading zeroes. */
static bool parse_size(struct checkpoint_span text, uint64_t *out)
{
    *out = 0;
    if (text.n == 0 || (text.n > 1 && text.at[0] == '0'))
        return false;
    for (size_t i = 0; i < text.n; i++)
        if (text.at[i] < '0' || text.at[i] > '9' ||
            __builtin_mul_overflow(*out, (uint64_t)10, out) ||
            __builtin_add_overflow(*out, (uint64_t)(text.at[i] - '0'), out))
            return false;
    return true;
}

static enum kv_status parse_text(
    struct checkpoint_span text, struct checkpoint *out, struct kv_error *error)
{
    struct checkpoint_span line;
    size_t n_root = 0;

    if (!cut(&text, '\n', &line) || line.n == 0 ||
        line.n > CHECKPOINT_NAME_BYTES)
        return kv_error_set(error, KV_INVALID,
            "the checkpoint's origin is not a line of 1 to %d bytes",
            CHECKPOINT_NAME_BYTES);
    memcpy(out->origin, line.at, line.n);
    out->origin[line.n] = '\0';
    if (!cut(&text, '\n', &line) || !parse_size(line, &out->tree_size))
        return kv_error_set(error, KV_INVALID,
            "the checkpoint's size is not a decimal number of 64 bits");
    if (!cut(&text, '\n', &line) ||
        !decode_base64(
            line, out->root.bytes, sizeof out->root.bytes, &n_root) ||
        n_root != sizeof out->root.bytes)
        return kv_error_set(error, KV_INVALID,
            "the checkpoint's root is not the base64 of 32 bytes");
    while (cut(&text, '\n', &line))
        if (line.n == 0)
            return kv_error_set(error, KV_INVALID,
                "the checkpoint has an empty line in its text");
    return KV_OK;
}

bool checkpoint_take_signature(
    struct checkpoint_span *lines, struct checkpoint_signature *out)
{
    const size_t n_dash = sizeof DASH - 1;
    struct checkpoint_span line;

    if (!cut(lines, '\n', &line) || line.n < n_dash ||
        memcmp(line.at, DASH, n_dash) != 0)
        return false;
    line.at += n_dash;
    line.n -= n_dash;
    return cut(&line, ' ', &out->name) && is_name(out->name) &&
           decode_base64(line, out->bytes, sizeof out->bytes, &out->n_bytes) &&
           out->n_bytes > ID_BYTES;
}

bool checkpoint_is_of(const struct checkpoint_signature *signature,
    const struct checkpoint_key *key)
{
    return signature->name.n == strlen(key->name) &&
           memcmp(signature->name.at, key->name, signature->name.n) == 0 &&
           memcmp(signature->bytes, key->id, sizeof key->id) == 0;
}

static bool is_right(const struct checkpoint_signature *signature,
    struct checkpoint_span text, const struct checkpoint_key *key)
{
    return signature->n_bytes == SIGNATURE_BYTES &&
           crypto_sign_verify_detached(signature->bytes + ID_BYTES,
               (const unsigned char *)text.at, text.n, key->public_key) == 0;
}

/* Every line is looked at; key may be NULL, then nobody's is right. */
static enum kv_status check_signatures(const struct checkpoint_parts *note,
    const struct checkpoint_key *key, struct kv_error *error)
{
    struct checkpoint_span rest = note->signatures;
    struct checkpoint_signature signature;
    bool found = false;

    for (size_t n = 0; rest.n > 0; n++) {
        if (n == CHECKPOINT_MAX_SIGNATURES ||
            !checkpoint_take_signature(&rest, &signature))
            return kv_error_set(error, KV_INVALID,
                "line %zu behind the note's text is no signature, or one too "
                "many",
                n + 1);
        if (key == NULL || !checkpoint_is_of(&signature, key))
            continue;
        if (!is_right(&signature, note->text, key))
            return kv_error_set(error, KV_INVALID,
                "the signature of %s is not right", key->name);
        found = true;
    }
    if (key != NULL && !found)
        return kv_error_set(error, KV_NOT_FOUND,
            "the checkpoint is not signed by the key %s",
            checkpoint_key_format(key).s);
    return KV_OK;
}

static enum kv_status read_note(const void *bytes, size_t n_bytes,
    const struct checkpoint_key *key, struct checkpoint *out,
    struct kv_error *error)
{
    struct checkpoint checkpoint;
    struct checkpoint_parts note;
    enum kv_status status = checkpoint_split(bytes, n_bytes, &note, error);

    if (status == KV_OK)
        status = check_signatures(&note, key, error);
    if (status == KV_OK)
        status = parse_text(note.text, &checkpoint, error);
    if (status == KV_OK)
        *out = checkpoint;
    return status;
}

enum kv_status checkpoint_parse(const void *note, size_t n_bytes,
    struct checkpoint *out, struct kv_error *error)
{
    return read_note(note, n_bytes, NULL, out, error);
}

enum kv_status checkpoint_verify(const void *note, size_t n_bytes,
    const struct checkpoint_key *key, struct checkpoint *out,
    struct kv_error *error)
{
    if (!checkpoint_start(error))
        return KV_IO;
    return read_note(note, n_bytes, key, out, error);
}
