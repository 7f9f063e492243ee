#include "tests/sinks/nats_peer.h"
#include "tests/support/check_main.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <arpa/inet.h>

#define PATIENCE_MS 120000

bool nats_peer_is_installed(void)
{
    return system("command -v nats-server >/dev/null") == 0;
}

static bool is_free(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool free;

    ck_assert_int_ge(fd, 0);
    free = bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    close(fd);
    return free;
}

/* One that nobody gets who asks for any: it is there again after a restart. */
static int lasting_port(void)
{
    unsigned short drawn;
    int port;

    do {
        ck_assert_int_eq(getentropy(&drawn, sizeof drawn), 0);
        port = 10000 + drawn % 22000;
    } while (!is_free(port));
    return port;
}

static bool is_up(const struct nats_peer *peer)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
        .sin_port = htons((uint16_t)peer->port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool up = connect(fd, (struct sockaddr *)&address, sizeof address) == 0;

    close(fd);
    return up;
}

static void write_configuration(
    const struct nats_peer *peer, const char *configuration, const char *path)
{
    FILE *file = fopen(path, "w");

    ck_assert_ptr_nonnull(file);
    fprintf(file, "listen: 127.0.0.1:%d\n%s\n", peer->port, configuration);
    fclose(file);
}

static void run_server(const struct nats_peer *peer, const char *path)
{
    char log[128];
    int fd;

    snprintf(log, sizeof log, "%s/nats.log", peer->dir);
    fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, 1);
    dup2(fd, 2);
    if (chdir(peer->dir) == 0)
        execlp("nats-server", "nats-server", "-c", path, (char *)NULL);
    _exit(127);
}

void nats_peer_restart(struct nats_peer *peer, const char *configuration)
{
    char path[128];
    int ms = 0;

    snprintf(path, sizeof path, "%s/nats.conf", peer->dir);
    write_configuration(peer, configuration, path);
    peer->pid = fork();
    ck_assert_int_ge(peer->pid, 0);
    if (peer->pid == 0)
        run_server(peer, path);
    for (; !is_up(peer); ms += 10) {
        ck_assert_int_lt(ms, PATIENCE_MS);
        ck_assert_int_eq(waitpid(peer->pid, NULL, WNOHANG), 0);
        usleep(10000);
    }
}

void nats_peer_start(
    struct nats_peer *peer, const char *dir, const char *configuration)
{
    *peer = (struct nats_peer){.dir = dir, .port = lasting_port()};
    snprintf(peer->url, sizeof peer->url, "nats://127.0.0.1:%d", peer->port);
    nats_peer_restart(peer, configuration);
}

void nats_peer_signal(const struct nats_peer *peer, int number)
{
    int status;

    ck_assert_int_eq(kill(peer->pid, number), 0);
    if (number == SIGSTOP)
        ck_assert_int_eq(waitpid(peer->pid, &status, WUNTRACED), peer->pid);
}

void nats_peer_kill(struct nats_peer *peer)
{
    if (peer->pid == 0)
        return;
    nats_peer_signal(peer, SIGKILL);
    waitpid(peer->pid, NULL, 0);
    peer->pid = 0;
}

/* ---- the stream */

static void well(natsStatus status)
{
    ck_assert_msg(status == NATS_OK, "%s", natsStatus_GetText(status));
}

static jsCtx *connect_to(
    const struct nats_peer *peer, natsConnection **connection)
{
    jsCtx *js;

    well(natsConnection_ConnectTo(connection, peer->url));
    well(natsConnection_JetStream(&js, *connection, NULL));
    return js;
}

static void add_message(json_t *messages, natsMsg *message)
{
    json_t *data = json_loadb(natsMsg_GetData(message),
        (size_t)natsMsg_GetDataLength(message), 0, NULL);
    const char *id = NULL;

    natsMsgHeader_Get(message, "Nats-Msg-Id", &id);
    json_array_append_new(
        messages, json_pack("{s:s, s:s, s:o}", "id", id != NULL ? id : "",
                      "subject", natsMsg_GetSubject(message), "data",
                      data != NULL ? data : json_null()));
}

json_t *nats_peer_read(const struct nats_peer *peer, const char *stream)
{
    json_t *messages = json_array();
    natsConnection *connection;
    jsCtx *js = connect_to(peer, &connection);
    jsStreamInfo *info;

    well(js_GetStreamInfo(&info, js, stream, NULL, NULL));
    for (uint64_t i = 1; i <= info->State.LastSeq; i++) {
        natsMsg *message;

        well(js_GetMsg(&message, js, stream, i, NULL, NULL));
        add_message(messages, message);
        natsMsg_Destroy(message);
    }
    jsStreamInfo_Destroy(info);
    jsCtx_Destroy(js);
    natsConnection_Destroy(connection);
    return messages;
}

void nats_peer_add_stream(
    const struct nats_peer *peer, const char *stream, const char *subject)
{
    natsConnection *connection;
    jsCtx *js = connect_to(peer, &connection);
    jsStreamConfig config;

    jsStreamConfig_Init(&config);
    config.Name = stream;
    config.Subjects = &subject;
    config.SubjectsLen = 1;
    well(js_AddStream(NULL, js, &config, NULL, NULL));
    jsCtx_Destroy(js);
    natsConnection_Destroy(connection);
}
