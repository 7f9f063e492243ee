#include "cli/witness_state.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/heap.h"
#include "cli/out_file.h"
#include "cli/text.h"

static enum kv_status refuse(
    const char *path, const char *what, struct kv_error *error)
{
    return kv_error_set(
        error, KV_IO, "%s: %s: %s", text_name(path).s, what, strerror(errno));
}

static enum kv_status take_lock(
    struct witness_state *state, struct kv_error *error)
{
    size_t n_bytes = strlen(state->path) + sizeof ".lock";
    char *path = kv_calloc(n_bytes, 1);
    enum kv_status status = KV_OK;

    if (path == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "out of memory");
    snprintf(path, n_bytes, "%s.lock", state->path);
    state->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (state->lock < 0)
        status = refuse(path, "cannot be created", error);
    else if (flock(state->lock, LOCK_EX | LOCK_NB) != 0)
        status = kv_error_set(error, KV_BUSY, "%s: another witness has it",
            text_name(state->path).s);
    kv_free(path);
    return status;
}

/* Whether it is what is described at the top. */
static bool is_state(json_t *json)
{
    json_t *ledgers = json_object_get(json, "ledgers");
    const char *origin;
    json_t *ledger;

    if (json_integer_value(json_object_get(json, "version")) != 1 ||
        !json_is_object(ledgers))
        return false;
    json_object_foreach(ledgers, origin, ledger)
    {
        if (!json_is_string(json_object_get(ledger, "key")) ||
            !json_is_string(json_object_get(ledger, "note")))
            return false;
    }
    return true;
}

static enum kv_status read_state(
    struct witness_state *state, struct kv_error *error)
{
    FILE *in = fopen(state->path, "re");
    json_error_t where;

    if (in == NULL && errno == ENOENT) {
        state->json = json_pack("{s:i, s:{}}", "version", 1, "ledgers");
        return state->json != NULL
                   ? KV_OK
                   : kv_error_set(error, KV_NO_MEMORY, "out of memory");
    }
    if (in == NULL)
        return refuse(state->path, "cannot be read", error);
    state->json = json_loadf(in, JSON_REJECT_DUPLICATES, &where);
    fclose(in);
    if (state->json != NULL && is_state(state->json))
        return KV_OK;
    return kv_error_set(error, KV_INVALID,
        "%s: is not the state of a witness%s%s", text_name(state->path).s,
        state->json == NULL ? ": " : "",
        state->json == NULL ? text_name(where.text).s : "");
}

enum kv_status witness_state_open(
    struct witness_state *state, const char *path, struct kv_error *error)
{
    enum kv_status status;

    *state = (struct witness_state){.path = kv_strdup(path), .lock = -1};
    if (state->path == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "out of memory");
    status = take_lock(state, error);
    if (status == KV_OK)
        status = read_state(state, error);
    if (status != KV_OK)
        witness_state_close(state);
    return status;
}

void witness_state_close(struct witness_state *state)
{
    json_decref(state->json);
    if (state->lock >= 0)
        close(state->lock);
    kv_free(state->path);
    *state = (struct witness_state){.lock = -1};
}

bool witness_state_find(const struct witness_state *state, const char *origin,
    const char **key, const char **note)
{
    json_t *ledger =
        json_object_get(json_object_get(state->json, "ledgers"), origin);

    if (ledger == NULL)
        return false;
    *key = json_string_value(json_object_get(ledger, "key"));
    *note = json_string_value(json_object_get(ledger, "note"));
    return true;
}

size_t witness_state_count(const struct witness_state *state)
{
    return json_object_size(json_object_get(state->json, "ledgers"));
}

enum kv_status witness_state_put(struct witness_state *state,
    const char *origin, const char *key, const char *note, size_t n_note,
    struct kv_error *error)
{
    struct out_file file;
    enum kv_status status;

    if (json_object_set_new(json_object_get(state->json, "ledgers"), origin,
            json_pack("{s:s, s:s%}", "key", key, "note", note, n_note)) != 0)
        return kv_error_set(error, KV_NO_MEMORY, "out of memory");
    status = out_file_open(&file, state->path, 0600, error);
    if (status != KV_OK)
        return status;
    if (json_dumpf(state->json, file.stream, JSON_INDENT(2)) != 0 ||
        fputc('\n', file.stream) == EOF) {
        status = refuse(state->path, "cannot be written", error);
        out_file_abandon(&file);
        return status;
    }
    return out_file_commit(&file, error);
}
