#include "server/signing_key.h"

#include "base/log.h"
#include "receipts/key_file.h"
#include "server/server.h"

enum kv_status signing_key_load(struct checkpoint_signer *out, const char *path,
    const char *name, struct kv_error *error)
{
    struct key_file_news news;
    struct kv_error cause;
    enum kv_status status;

    if (path[0] == '\0')
        return checkpoint_signer_generate(out, name, error);
    status = key_file_load(out, CHECKPOINT_LOG, path, name, &news, &cause);
    if (news.made)
        kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "signing key made",
            KV_LOG_TEXT("file", path));
    if (news.open_to_all)
        kv_log(KV_LOG_WARN, SERVER_LOG_TARGET,
            "the signing key is open to every user of this machine",
            KV_LOG_TEXT("file", path));
    if (status == KV_OK)
        return KV_OK;
    return kv_error_set(error, status, "signing-key: %s", cause.text);
}
