/* A nats-server of the test's own, on a free port, that can be killed and come
 * back on the same port with what it has stored; and what its stream holds.
 * Blocks; functions fail the test themselves. */
#ifndef TESTS_SINKS_NATS_PEER_H
#define TESTS_SINKS_NATS_PEER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <jansson.h>
#include <nats/nats.h>

struct nats_peer {
    pid_t pid;
    const char *dir;
    int port;
    char url[64];
};

bool nats_peer_is_installed(void);

/* Starts it with these lines of configuration beside its port; where there is
 * to be JetStream they say so. `dir` is borrowed. */
void nats_peer_start(
    struct nats_peer *peer, const char *dir, const char *configuration);
void nats_peer_restart(struct nats_peer *peer, const char *configuration);
/* After SIGSTOP it has stopped. */
void nats_peer_signal(const struct nats_peer *peer, int number);
void nats_peer_kill(struct nats_peer *peer);

/* A client of the test's own: what is in the stream, as an array of {"id",
 * "subject", "data"}. */
json_t *nats_peer_read(const struct nats_peer *peer, const char *stream);
void nats_peer_add_stream(
    const struct nats_peer *peer, const char *stream, const char *subject);

#endif
