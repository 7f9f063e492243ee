/* The configuration file: one YAML mapping of option names.
 *
 *     kv_cache_size_mb: 512
 *     listen: [127.0.0.1:7440, unix:/run/kvpool.sock]
 *
 * Private to server/options*.c. */
#ifndef SERVER_OPTIONS_FILE_H
#define SERVER_OPTIONS_FILE_H

#include "server/options.h"

/* What the texts that came from the file point into. */
struct options_file_texts {
    struct options_file_text *first;
};

/* Sets what the file says and no stronger source has set. The texts are
 * borrowed from *texts, which is to be finished in any case. KV_INVALID, KV_IO,
 * KV_NO_MEMORY. */
enum kv_status options_file_read(const char *path, struct options *options,
    struct options_file_texts *texts, struct kv_error *error);

void options_file_texts_fini(struct options_file_texts *texts);

#endif
