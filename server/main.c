/* kvpoold: options, the server, its loop. Exit status: 0 after an orderly stop,
 * 78 (EX_CONFIG) where the configuration is at fault, 1 for anything else. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/log.h"
#include "base/streams.h"
#include "server/options.h"
#include "server/server.h"

#define N_FILES 256 /* open beside connections: receipts, sinks, the model */
/* Without so many nothing is begun: the loop, receipts on disk and HTTP take 24
 * before anybody is served, a sink up to three, and gRPC aborts where it gets
 * none of its own. */
#define N_FREE 48

static void set_up_log(const struct options *options)
{
    enum kv_log_level level = KV_LOG_INFO;
    enum kv_log_format format = KV_LOG_LOGFMT;

    kv_log_level_parse(options->log_level, &level);
    kv_log_format_parse(options->log_format, &format);
    kv_log_set_level(level);
    kv_log_set_format(format);
}

/* How many of the first `limit` numbers nobody has, counted up to N_FREE: what
 * we were started with takes some as well. */
static rlim_t count_free_files(rlim_t limit)
{
    rlim_t n_free = 0;

    for (int fd = 0; (rlim_t)fd < limit && n_free < N_FREE; fd++)
        n_free += fcntl(fd, F_GETFD) < 0;
    return n_free;
}

/* Sockets and files have one limit, which is often 1,024 of many more that it
 * may be: connections must not take what the journal needs. */
static enum kv_status raise_file_limit(
    const struct options *options, struct kv_error *error)
{
    const rlim_t n_needed =
        options->max_connections + options->admin_max_connections + N_FILES;
    struct rlimit limit;
    rlim_t n_free;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= n_needed)
        return KV_OK;
    limit.rlim_cur = limit.rlim_max < n_needed ? limit.rlim_max : n_needed;
    setrlimit(RLIMIT_NOFILE, &limit);
    n_free = count_free_files(limit.rlim_cur);
    if (n_free < N_FREE)
        return kv_error_set(error, KV_LIMIT,
            "open files: the limit (RLIMIT_NOFILE) is %ju, which leaves %ju; "
            "%d are needed, for receipts, sinks and connections; raise it with "
            "ulimit -n or LimitNOFILE",
            (uintmax_t)limit.rlim_cur, (uintmax_t)n_free, N_FREE);
    if (limit.rlim_cur < n_needed)
        kv_log(KV_LOG_WARN, SERVER_LOG_TARGET,
            "max_connections may take all files that may be open",
            KV_LOG_UINT("limit", limit.rlim_cur),
            KV_LOG_UINT("needed", n_needed));
    return KV_OK;
}

static int run(struct options *options)
{
    static struct server server;
    struct kv_error error;
    enum kv_status status;

    status = raise_file_limit(options, &error);
    if (status == KV_OK)
        status = server_open(&server, options, &error);
    if (status == KV_OK) {
        status = server_start(&server, &error);
        if (status == KV_OK)
            rpc_loop_run(server.loop);
        if (status == KV_OK)
            status = server_check(&server, &error);
        server_close(&server);
    }
    if (status == KV_OK) {
        kv_log(KV_LOG_INFO, SERVER_LOG_TARGET, "stopped", KV_LOG_END);
        return EXIT_SUCCESS;
    }
    fprintf(stderr, "kvpoold: %s\n", error.text);
    return status == KV_INVALID ? EX_CONFIG : EXIT_FAILURE;
}

static int check_config(const struct options *options)
{
    struct kv_error error;

    if (server_check_options(options, &error) != KV_OK) {
        fprintf(stderr, "kvpoold: %s\n", error.text);
        return EX_CONFIG;
    }
    puts("configuration is valid");
    return EXIT_SUCCESS;
}

/* What a command asks for, or else the server. */
static int obey(struct options *options)
{
    if (options->help) {
        options_print_help();
    } else if (options->version) {
        printf("kvpoold %s\n", SERVER_VERSION);
    } else if (options->check_config) {
        return check_config(options);
    } else if (options->print_config) {
        options_print_config(options);
    } else {
        set_up_log(options);
        return run(options);
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct options options;
    struct kv_error error;
    int code;

    kv_streams_fill();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* the journal and sinks say EFBIG */
    if (options_parse(&options, argc, (const char *const *)argv,
            (const char *const *)environ, &error) != KV_OK) {
        fprintf(stderr, "kvpoold: %s\n", error.text);
        return EX_CONFIG;
    }
    code = obey(&options);
    options_fini(&options);
    return code;
}
