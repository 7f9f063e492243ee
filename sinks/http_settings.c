#include "sinks/http_settings.h"

#include <inttypes.h>
#include <string.h>

#include <curl/curl.h>

#include "base/heap.h"

void http_settings_free(struct http_settings *settings)
{
    kv_free((char *)settings->url);
    kv_free((char *)settings->source);
    kv_free((char *)settings->token_file);
    kv_free((char *)settings->ca_file);
    kv_free((char *)settings->proxy);
}

static bool own_text(const char **text)
{
    *text = kv_strdup(*text);
    return *text != NULL;
}

enum kv_status http_settings_copy(
    struct http_settings *out, const struct http_settings *given)
{
    const char **texts[] = {
        &out->url, &out->source, &out->token_file, &out->ca_file, &out->proxy};
    bool owned = true;

    *out = *given;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        owned = own_text(texts[i]) && owned;
    if (owned)
        return KV_OK;
    http_settings_free(out);
    return KV_NO_MEMORY;
}

static bool is_loopback(const char *host)
{
    return strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
           strncmp(host, "127.", 4) == 0;
}

static const char *url_fault(const struct http_settings *settings, CURLU *url,
    char **scheme, char **host)
{
    char *fragment = NULL;

    if (curl_url_set(url, CURLUPART_URL, settings->url, CURLU_DISALLOW_USER) !=
            CURLUE_OK ||
        curl_url_get(url, CURLUPART_SCHEME, scheme, 0) != CURLUE_OK ||
        curl_url_get(url, CURLUPART_HOST, host, 0) != CURLUE_OK)
        return "it must be an http:// or https:// URL without a user in it";
    if (strcmp(*scheme, "http") != 0 && strcmp(*scheme, "https") != 0)
        return "it must be an http:// or https:// URL";
    if (curl_url_get(url, CURLUPART_FRAGMENT, &fragment, 0) == CURLUE_OK) {
        curl_free(fragment);
        return "a fragment (#) is never sent";
    }
    return NULL;
}

static enum kv_status check_plain(const struct http_settings *settings,
    const char *host, const char **field, struct kv_error *error)
{
    if (settings->token_file[0] != '\0' && !is_loopback(host)) {
        *field = "token_file";
        return kv_error_set(error, KV_INVALID,
            "a token would travel unencrypted: use an https:// url, or one of "
            "this machine");
    }
    if (settings->ca_file[0] != '\0') {
        *field = "ca_file";
        return kv_error_set(
            error, KV_INVALID, "an http:// url has no certificate to verify");
    }
    return KV_OK;
}

static enum kv_status check_url(const struct http_settings *settings,
    const char **field, struct kv_error *error)
{
    enum kv_status status = KV_OK;
    char *scheme = NULL, *host = NULL;
    CURLU *url = curl_url();
    const char *fault;

    if (url == NULL)
        return kv_error_set(error, KV_NO_MEMORY, "out of memory");
    *field = "url";
    fault = url_fault(settings, url, &scheme, &host);
    if (fault != NULL)
        status = kv_error_set(error, KV_INVALID, "%s", fault);
    else if (strcmp(scheme, "http") == 0)
        status = check_plain(settings, host, field, error);
    curl_free(scheme);
    curl_free(host);
    curl_url_cleanup(url);
    return status;
}

enum kv_status http_settings_check(
    const void *given, const char **field, struct kv_error *error)
{
    const struct http_settings *settings = given;

    if (settings->proxy[0] != '\0' &&
        (strncmp(settings->proxy, "http://", 7) != 0 ||
            strchr(settings->proxy, '@') != NULL)) {
        *field = "proxy";
        return kv_error_set(error, KV_INVALID,
            "it must be an http:// URL without a user in it");
    }
    if (settings->retry_least_ms > settings->retry_most_ms) {
        *field = "retry_least_ms";
        return kv_error_set(error, KV_INVALID,
            "%" PRIu64 " is more than retry_most_ms, %" PRIu64,
            settings->retry_least_ms, settings->retry_most_ms);
    }
    return check_url(settings, field, error);
}

#define AT(field) offsetof(struct http_settings, field)

const struct sink_setting http_settings_table[HTTP_N_SETTINGS] = {
    {"url", SINK_TEXT, AT(url), NULL, 0, 0, "URL",
        "where batches are POSTed; http:// or https://, without a user in it"},
    {"batch_receipts", SINK_UINT, AT(batch_receipts), "500", 1, 10000, "",
        "receipts in a batch, at most"},
    {"batch_bytes", SINK_UINT, AT(batch_bytes), "1048576", 1024, 16777216,
        "bytes", "JSON in a batch, at most; a single receipt may be larger"},
    {"linger_ms", SINK_UINT, AT(linger_ms), "200", 0, 60000, "ms",
        "how long a batch that is not full waits for more"},
    {"gzip", SINK_BOOL, AT(gzip), "false", 0, 0, "",
        "compress batches (Content-Encoding: gzip)"},
    {"source", SINK_TEXT, AT(source), "", 0, 0, "URI",
        "the events' source; empty is urn:uuid: and the ledger's pool_id"},
    {"token_file", SINK_TEXT, AT(token_file), "", 0, 0, "FILE",
        "a bearer token, read for every request; for https, or a target on "
        "this machine; empty is none"},
    {"ca_file", SINK_TEXT, AT(ca_file), "", 0, 0, "FILE",
        "certificates (PEM) of the only authorities to trust; empty is the "
        "system's"},
    {"proxy", SINK_TEXT, AT(proxy), "", 0, 0, "URL",
        "an http:// proxy; empty is none, whatever the environment has"},
    {"connect_timeout_ms", SINK_UINT, AT(connect_timeout_ms), "5000", 1, 600000,
        "ms", "limit for a connection and its TLS"},
    {"timeout_ms", SINK_UINT, AT(timeout_ms), "30000", 1, 3600000, "ms",
        "limit for a request and its answer"},
    {"retry_least_ms", SINK_UINT, AT(retry_least_ms), "200", 1, 3600000, "ms",
        "pause before the first retry; each further one is twice as long, less "
        "a random part of up to a half"},
    {"retry_most_ms", SINK_UINT, AT(retry_most_ms), "30000", 1, 3600000, "ms",
        "pause at most, and at once after an answer of 3xx or 4xx (but 408, "
        "429)"},
    {"retry_after_most_ms", SINK_UINT, AT(retry_after_most_ms), "300000", 0,
        86400000, "ms", "a Retry-After of the target is honoured up to this"},
    {"give_up_s", SINK_UINT, AT(give_up_s), "86400", 0, 31536000, "s",
        "a target that answers nothing but 3xx or 4xx (but 408, 429) for so "
        "long is given up until the configuration is read again; 0 is never"},
    {"close_ms", SINK_UINT, AT(close_ms), "5000", 0, 600000, "ms",
        "what is not acknowledged so long after the end is left to the next "
        "start"},
};
