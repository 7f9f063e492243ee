#include "sinks/nats_line.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "sinks/secret.h"

#define PING_INTERVAL_MS 20000
#define REPLY_BYTES 256

/* ---- failures */

bool nats_line_fail(struct nats_line *line, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(line->error, sizeof line->error, format, args);
    va_end(args);
    return false;
}

/* The library's words, which are more than the status' where it has any. */
bool nats_line_fail_status(
    struct nats_line *line, const char *what, natsStatus status)
{
    natsStatus last = NATS_OK;
    const char *text = nats_GetLastError(&last);

    if (text == NULL || text[0] == '\0' || last != status)
        text = natsStatus_GetText(status);
    return nats_line_fail(line, "%s: %s", what, text);
}

/* ---- connecting */

/* Quiet: what fails is met again by the courier, in order. */
static void on_error(natsConnection *connection, natsSubscription *subscription,
    natsStatus status, void *ctx)
{
    (void)connection;
    (void)subscription;
    (void)status;
    (void)ctx;
}

int nats_line_split_urls(char *copy, const char **urls)
{
    char *rest = copy, *url;
    int n = 0;

    while (n < NATS_MAX_URLS && (url = strsep(&rest, ",")) != NULL)
        urls[n++] = url;
    return n;
}

static natsStatus set_servers(natsOptions *options, const char *url)
{
    const char *urls[NATS_MAX_URLS];
    char *copy = kv_strdup(url);
    natsStatus status;

    if (copy == NULL)
        return NATS_NO_MEMORY;
    status =
        natsOptions_SetServers(options, urls, nats_line_split_urls(copy, urls));
    kv_free(copy);
    return status;
}

static natsStatus set_tls(
    natsOptions *options, const struct nats_settings *settings)
{
    natsStatus status;

    if (strncmp(settings->url, "tls://", 6) != 0)
        return NATS_OK;
    status = natsOptions_SetSecure(options, true);
    if (status == NATS_OK && settings->ca_file[0] != '\0')
        status =
            natsOptions_LoadCATrustedCertificates(options, settings->ca_file);
    return status;
}

/* false: the secret cannot be read. */
static bool set_secret(struct nats_line *line, natsOptions *options,
    const char *path, natsStatus *status)
{
    const char *user = line->settings->user;
    struct secret secret;
    struct kv_error error;

    if (secret_read(&secret, path, &error) != KV_OK)
        return nats_line_fail(line, "%.180s", error.text);
    *status = user[0] != '\0'
                  ? natsOptions_SetUserInfo(options, user, secret.text)
                  : natsOptions_SetToken(options, secret.text);
    secret_wipe(&secret);
    return true;
}

static bool set_identity(
    struct nats_line *line, natsOptions *options, natsStatus *status)
{
    const struct nats_settings *settings = line->settings;

    if (settings->password_file[0] != '\0')
        return set_secret(line, options, settings->password_file, status);
    if (settings->token_file[0] != '\0')
        return set_secret(line, options, settings->token_file, status);
    if (settings->credentials_file[0] != '\0')
        *status = natsOptions_SetUserCredentialsFromFiles(
            options, settings->credentials_file, NULL);
    return true;
}

static natsStatus set_plain_options(
    natsOptions *options, const struct nats_settings *settings)
{
    natsStatus status = set_servers(options, settings->url);

#define SET(call) status = status == NATS_OK ? (call) : status
    SET(natsOptions_SetName(options, "kvpoold"));
    SET(natsOptions_SetTimeout(options, (int64_t)settings->connect_timeout_ms));
    SET(natsOptions_SetWriteDeadline(
        options, (int64_t)settings->ack_timeout_ms));
    SET(natsOptions_SetAllowReconnect(options, false));
    SET(natsOptions_SetPingInterval(options, PING_INTERVAL_MS));
    SET(natsOptions_SetErrorHandler(options, on_error, NULL));
    SET(set_tls(options, settings));
#undef SET
    return status;
}

/* ---- a limit for connecting
 *
 * The library has limits for all but the TLS handshake, in which it waits for
 * ever for a server that says nothing. A signal to this thread ends that wait:
 * the read fails, and with it the handshake. Its time comes again and again, as
 * there may be several servers to try, and as a signal that hits no wait is
 * lost. */

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static void on_alarm(int number)
{
    (void)number;
}

static bool set_alarm(timer_t timer, uint64_t ms)
{
    const struct timespec each = {.tv_sec = (time_t)(ms / 1000),
        .tv_nsec = (long)(ms % 1000) * KV_NS_PER_MS};
    const struct itimerspec when = {.it_value = each, .it_interval = each};

    return timer_settime(timer, 0, &when, NULL) == 0;
}

static void take_alarms(int how)
{
    sigset_t alarms;

    sigemptyset(&alarms);
    sigaddset(&alarms, SIGURG);
    pthread_sigmask(how, &alarms, NULL);
}

/* SIGURG does nothing where nobody listens, and nobody else does here. */
static natsStatus connect_within(
    struct nats_line *line, natsOptions *options, uint64_t ms)
{
    const struct sigaction action = {.sa_handler = on_alarm};
    struct sigevent event = {
        .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGURG};
    natsStatus status = NATS_SYS_ERROR;
    timer_t timer;

    event.sigev_notify_thread_id = gettid();
    if (sigaction(SIGURG, &action, NULL) != 0 ||
        timer_create(CLOCK_MONOTONIC, &event, &timer) != 0)
        return status;
    take_alarms(SIG_UNBLOCK);
    if (set_alarm(timer, ms))
        status = natsConnection_Connect(&line->connection, options);
    timer_delete(timer);
    take_alarms(SIG_BLOCK);
    return status;
}

static bool fail_connecting(
    struct nats_line *line, natsStatus status, int64_t begin_ns)
{
    uint64_t ms = line->settings->connect_timeout_ms;

    if (status == NATS_SSL_ERROR &&
        kv_clock_mono_ns() - begin_ns >= (int64_t)ms * KV_NS_PER_MS)
        return nats_line_fail(
            line, "connecting: no TLS handshake within %" PRIu64 " ms", ms);
    return nats_line_fail_status(line, "connecting", status);
}

static bool open_connection(struct nats_line *line)
{
    int64_t begin_ns = kv_clock_mono_ns();
    natsOptions *options = NULL;
    natsStatus status = natsOptions_Create(&options);
    bool is_read = true;

    if (status == NATS_OK)
        status = set_plain_options(options, line->settings);
    if (status == NATS_OK)
        is_read = set_identity(line, options, &status);
    if (is_read && status == NATS_OK)
        status =
            connect_within(line, options, line->settings->connect_timeout_ms);
    natsOptions_Destroy(options);
    if (!is_read)
        return false;
    return status == NATS_OK || fail_connecting(line, status, begin_ns);
}

static bool open_replies(struct nats_line *line)
{
    char subject[REPLY_BYTES];
    natsStatus status = natsInbox_Create(&line->inbox);

    if (status == NATS_OK) {
        snprintf(subject, sizeof subject, "%s.*", line->inbox);
        status = natsConnection_SubscribeSync(
            &line->replies, line->connection, subject);
    }
    if (status == NATS_OK)
        status = natsSubscription_SetPendingLimits(line->replies, -1, -1);
    return status == NATS_OK || nats_line_fail_status(line,
                                    "listening for acknowledgements", status);
}

/* ---- the stream */

/* Whether the stream's subject takes every event of the prefix: its tokens are
 * those of the prefix, or `*`, and then there is one wildcard, or `>`. */
static bool covers(const char *filter, const char *prefix)
{
    for (;;) {
        size_t n_filter = strcspn(filter, "."), n = strcspn(prefix, ".");

        if (n_filter == 1 && filter[0] == '>')
            return true;
        if (n == 0)
            return strcmp(filter, "*") == 0;
        if (!(n_filter == 1 && filter[0] == '*') &&
            (n_filter != n || strncmp(filter, prefix, n) != 0))
            return false;
        if (filter[n_filter] == '\0')
            return false;
        filter += n_filter + 1;
        prefix += n + (prefix[n] == '.');
    }
}

/* A stream that somebody made otherwise is not ours to change. */
static bool check_config(struct nats_line *line, const jsStreamConfig *config)
{
    const struct nats_settings *settings = line->settings;

    line->is_hopeless = true;
    if (config->NoAck)
        return nats_line_fail(line,
            "stream %.60s gives no acknowledgements (no_ack)",
            settings->stream);
    for (int i = 0; i < config->SubjectsLen; i++) {
        if (covers(config->Subjects[i], settings->subject)) {
            line->is_hopeless = false;
            return true;
        }
    }
    return nats_line_fail(line,
        "stream %.60s does not have the subject %.90s.>", settings->stream,
        settings->subject);
}

static bool create_stream(struct nats_line *line, jsCtx *js)
{
    const struct nats_settings *settings = line->settings;
    char subject[NATS_NAME_BYTES + 3];
    const char *subjects[] = {subject};
    jsStreamConfig config;
    jsErrCode code = 0;
    natsStatus status;

    if (!settings->create_stream)
        return nats_line_fail(line,
            "there is no stream %.60s, and create_stream is false",
            settings->stream);
    snprintf(subject, sizeof subject, "%s.>", settings->subject);
    jsStreamConfig_Init(&config);
    config.Name = settings->stream;
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    config.Duplicates = (int64_t)settings->duplicate_window_s * KV_NS_PER_S;
    status = js_AddStream(NULL, js, &config, NULL, &code);
    return status == NATS_OK ||
           nats_line_fail_status(line, "creating the stream", status);
}

static bool check_stream(struct nats_line *line)
{
    jsOptions options;
    jsStreamInfo *info = NULL;
    jsErrCode code = 0;
    natsStatus status;
    jsCtx *js = NULL;
    bool fits;

    jsOptions_Init(&options);
    options.Wait = (int64_t)line->settings->ack_timeout_ms;
    status = natsConnection_JetStream(&js, line->connection, &options);
    if (status != NATS_OK)
        return nats_line_fail_status(line, "JetStream", status);
    status = js_GetStreamInfo(&info, js, line->settings->stream, NULL, &code);
    if (status == NATS_OK)
        fits = check_config(line, info->Config);
    else if (code == JSStreamNotFoundErr)
        fits = create_stream(line, js);
    else if (status == NATS_NO_RESPONDERS)
        fits = nats_line_fail(line, "the server has no JetStream");
    else
        fits = nats_line_fail_status(line, "looking for the stream", status);
    jsStreamInfo_Destroy(info);
    jsCtx_Destroy(js);
    return fits;
}

bool nats_line_open(struct nats_line *line)
{
    return open_connection(line) && open_replies(line) && check_stream(line);
}

void nats_line_close(struct nats_line *line)
{
    natsSubscription_Destroy(line->replies);
    natsInbox_Destroy(line->inbox);
    natsConnection_Destroy(line->connection); /* closes it */
    line->replies = NULL;
    line->inbox = NULL;
    line->connection = NULL;
}
