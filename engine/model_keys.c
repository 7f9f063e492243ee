#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/model_internal.h"

struct model_key model_key(
    const struct model_loader *loader, const char *suffix)
{
    struct model_key key;

    snprintf(
        key.text, sizeof key.text, "%s.%s", loader->architecture->name, suffix);
    return key;
}

bool model_text_is(struct gguf_string text, const char *word)
{
    return text.n == strlen(word) && memcmp(text.data, word, text.n) == 0;
}

static enum kv_status read_uint(
    struct model_loader *loader, const struct model_uint *want)
{
    struct model_key key = model_key(loader, want->suffix);
    uint64_t value;
    enum kv_status status =
        gguf_get_uint(loader->gguf, key.text, &value, loader->error);

    if (status == KV_NOT_FOUND) {
        if (!want->is_required)
            return KV_OK;
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key %s is missing; an integer from %" PRIu64 " to %" PRIu64
            " is needed",
            gguf_name(loader->gguf), key.text, want->min, want->max);
    }
    if (status != KV_OK)
        return status;
    if (value < want->min || value > want->max)
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key %s is %" PRIu64 "; %" PRIu64 " to %" PRIu64 " are allowed",
            gguf_name(loader->gguf), key.text, value, want->min, want->max);
    *want->out = (uint32_t)value;
    return KV_OK;
}

enum kv_status model_read_uints(
    struct model_loader *loader, const struct model_uint *keys, size_t n)
{
    enum kv_status status = KV_OK;

    for (size_t i = 0; i < n && status == KV_OK; i++)
        status = read_uint(loader, &keys[i]);
    return status;
}

static enum kv_status read_float(
    struct model_loader *loader, const struct model_float *want)
{
    struct model_key key = model_key(loader, want->suffix);
    float value;
    enum kv_status status =
        gguf_get_float(loader->gguf, key.text, &value, loader->error);

    if (status == KV_NOT_FOUND) {
        if (!want->is_required)
            return KV_OK;
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key %s is missing; a number from %g to %g is needed",
            gguf_name(loader->gguf), key.text, (double)want->min,
            (double)want->max);
    }
    if (status != KV_OK)
        return status;
    if (!(value >= want->min && value <= want->max))
        return kv_error_set(loader->error, KV_INVALID,
            "%s: key %s is %g; %g to %g are allowed", gguf_name(loader->gguf),
            key.text, (double)value, (double)want->min, (double)want->max);
    *want->out = value;
    return KV_OK;
}

enum kv_status model_read_floats(
    struct model_loader *loader, const struct model_float *keys, size_t n)
{
    enum kv_status status = KV_OK;

    for (size_t i = 0; i < n && status == KV_OK; i++)
        status = read_float(loader, &keys[i]);
    return status;
}

enum kv_status model_read_text(
    struct model_loader *loader, const char *suffix, struct gguf_string *out)
{
    const enum kv_status status = gguf_get_string(
        loader->gguf, model_key(loader, suffix).text, out, loader->error);

    return status == KV_NOT_FOUND ? KV_OK : status;
}

enum kv_status model_refuse(
    struct model_loader *loader, const char *suffix, const char *what)
{
    return kv_error_set(loader->error, KV_UNSUPPORTED,
        "%s: key %s: %s is not supported", gguf_name(loader->gguf),
        model_key(loader, suffix).text, what);
}
