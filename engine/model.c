#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "engine/model_internal.h"

size_t weight_bytes(const struct weight *weight)
{
    return (size_t)weight->n_rows * weight->n_cols /
           gguf_type_block_elements(weight->type) *
           gguf_type_block_bytes(weight->type);
}

/* general.name, or the file's name without folders. */
static enum kv_status name_model(struct model_loader *loader)
{
    const char *file = gguf_name(loader->gguf);
    const char *slash = strrchr(file, '/');
    struct gguf_string name;
    struct gguf_printable printable;
    enum kv_status status =
        gguf_get_string(loader->gguf, "general.name", &name, loader->error);

    if (status != KV_OK && status != KV_NOT_FOUND)
        return status;
    if (status == KV_NOT_FOUND || name.n == 0) {
        name.data = slash != NULL ? slash + 1 : file;
        name.n = strlen(name.data);
    }
    printable = gguf_printable(name);
    memcpy(loader->model->name, printable.text, sizeof printable.text);
    return KV_OK;
}

/* Large models come in several files, of which this would be one. */
static enum kv_status refuse_part(struct model_loader *loader)
{
    uint64_t n_parts = 1;
    const enum kv_status status =
        gguf_get_uint(loader->gguf, "split.count", &n_parts, loader->error);

    if (status != KV_OK && status != KV_NOT_FOUND)
        return status;
    if (n_parts <= 1)
        return KV_OK;
    return kv_error_set(loader->error, KV_UNSUPPORTED,
        "%s: key split.count is %" PRIu64
        ": it is a part of a model; one file is supported, into which "
        "llama-gguf-split --merge makes them",
        gguf_name(loader->gguf), n_parts);
}

static enum kv_status load(struct model_loader *loader)
{
    enum kv_status status = refuse_part(loader);

    if (status == KV_OK)
        status = model_read_architecture(loader);
    if (status == KV_OK)
        status = name_model(loader);
    if (status == KV_OK)
        status = model_read_shape(loader);
    if (status == KV_OK)
        status = model_allocate(loader);
    if (status == KV_OK)
        status = model_load_tensors(loader);
    kv_free(loader->is_used);
    return status;
}

/* Takes over gguf, also when it fails. */
static enum kv_status open_gguf(
    struct model **out, struct gguf *gguf, struct kv_error *error)
{
    struct model *model = kv_calloc(1, sizeof *model);
    struct model_loader loader = {.gguf = gguf, .model = model, .error = error};
    enum kv_status status;

    if (model == NULL) {
        gguf_close(gguf);
        return kv_error_set(error, KV_NO_MEMORY, "no memory to open a model");
    }
    model->gguf = gguf;
    model->mapped_bytes = gguf_file_bytes(gguf);
    status = load(&loader);
    model_look_at_file(model);
    if (model_check_file(model, NULL) != KV_OK) /* which spoilt the rest */
        status = model_check_file(model, error);
    if (status != KV_OK) {
        model_close(model);
        return status;
    }
    *out = model;
    return KV_OK;
}

enum kv_status model_open(
    struct model **out, const char *path, struct kv_error *error)
{
    struct gguf *gguf;
    enum kv_status status = gguf_open(&gguf, path, error);

    return status == KV_OK ? open_gguf(out, gguf, error) : status;
}

enum kv_status model_open_memory(struct model **out, const void *data, size_t n,
    const char *name, struct kv_error *error)
{
    struct gguf *gguf;
    enum kv_status status = gguf_open_memory(&gguf, data, n, name, error);

    return status == KV_OK ? open_gguf(out, gguf, error) : status;
}

void model_close(struct model *model)
{
    if (model == NULL)
        return;
    kv_free(model->rope_frequencies);
    kv_free(model->copies);
    kv_free(model->layers);
    gguf_close(model->gguf);
    kv_free(model);
}

enum kv_status model_check_file(
    const struct model *model, struct kv_error *error)
{
    static const char *const what[] = {
        [MAPPING_CUT] = "cut short, or its disk failed,",
        [MAPPING_WRITTEN] = "written to",
    };
    const enum mapping_state state =
        model->gguf == NULL ? MAPPING_SOUND : gguf_state(model->gguf);

    if (state == MAPPING_SOUND)
        return KV_OK;
    return kv_error_set(error, KV_IO, "%s: the file was %s while it was read",
        gguf_name(model->gguf), what[state]);
}

void model_look_at_file(const struct model *model)
{
    if (model->gguf != NULL)
        gguf_look(model->gguf);
}

static int compare_usage(const void *a, const void *b)
{
    uint64_t a_bytes = ((const struct model_type_usage *)a)->n_bytes;
    uint64_t b_bytes = ((const struct model_type_usage *)b)->n_bytes;

    return a_bytes < b_bytes ? 1 : a_bytes > b_bytes ? -1 : 0;
}

size_t model_type_usage(
    const struct model *model, struct model_type_usage usage[MODEL_MAX_TYPES])
{
    size_t n = 0;

    for (size_t i = 0; i < gguf_n_tensors(model->gguf); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(model->gguf, i);
        size_t at = 0;

        while (at < n && usage[at].type != tensor->type)
            at++;
        if (at == n)
            usage[n++] = (struct model_type_usage){.type = tensor->type};
        usage[at].n_tensors++;
        usage[at].n_bytes += tensor->n_bytes;
    }
    qsort(usage, n, sizeof *usage, compare_usage);
    return n;
}
