/* The server: one of everything, and who knows whom.
 *
 *   server_open ─> server_start ─> rpc_loop_run ─> server_close
 *                                   │  SIGTERM: server_stop
 *                                   └──────────────────────────> loop stops
 *
 * Only this folder knows everybody. Each service is a file of its own that
 * works on this struct; they do not know each other.
 *
 * Thread: the owner's. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include "base/error.h"
#include "engine/compute.h"
#include "engine/model.h"
#include "engine/scheduler.h"
#include "engine/tokenizer.h"
#include "pool/pool.h"
#include "receipts/calls.h"
#include "rpc/loop.h"
#include "rpc/server.h"
#include "server/census.h"
#include "server/loop_watch.h"
#include "server/model_watch.h"
#include "server/options.h"
#include "server/recorder.h"
#include "server/step.h"

#define SERVER_LOG_TARGET "kvpool::server"
#define SERVER_VERSION "0.1.0"

/* A longer text takes more than some milliseconds to become tokens, and is left
 * to another thread. */
#define SERVER_SHORT_TEXT_BYTES 8192

struct server {
    struct options *options; /* server/reload.c writes them */
    struct rpc_loop *loop;
    struct rpc_server *rpc;
    struct model *model;
    struct tokenizer *tokenizer;
    struct pool *pool;
    struct compute *compute;
    struct scheduler *scheduler;
    struct step *step;
    struct pages *pages;        /* NULL: no HTTP */
    struct recorder *recorder;  /* NULL: receipts are off */
    struct census census;       /* of what happens in the pool */
    struct kv_published totals; /* see server/totals.h */
    struct loop_watch loop_watch;
    enum kv_type kv_type;
    uint32_t n_threads;
    uint64_t secret[2]; /* of this process */
    int64_t started_unix_ns;

    struct calls *calls;          /* Evict calls that may be repeated */
    struct kv_list evict_calls;   /* answers that wait for receipts, */
    struct kv_list evict_repeats; /* and for the first to be decided */
    struct evp_md_ctx_st *sha256; /* of requests; NULL before there is one */
    struct ledger_watcher evict_watcher;
    struct rpc_post evict_post;
    bool evict_answers; /* that post is under way */

    struct kv_list subscribers; /* and those among them with a turn to come, */
    struct kv_list subscribers_waiting, subscribers_due; /* see subscriber.h */
    struct rpc_post subscribers_post;
    bool subscribers_turn; /* turns are being given */
    uint32_t n_subscribers;
    uint64_t last_subscriber_id;
    struct ledger_watcher subscriber_watcher;
    struct ledger_watcher health_watcher;
    struct model_watch model_watch;
    struct kv_list checkpoint_calls; /* waiting for a checkpoint */
    uv_timer_t subscriber_tick, subscriber_pause, snapshot_tick,
        checkpoint_tick, drain_tick;
    uv_signal_t signals[3];
    uint32_t n_works; /* texts that other threads make tokens, and the like */
    bool timers_open, draining, handed_back, issued_last, closing_streams;
    bool calls_over;      /* of the draining; sinks are next */
    bool flushing;        /* they are closed */
    bool told_waiting;    /* what is waited for beyond the limit */
    bool model_lost;      /* server_lose_model was there */
    bool hurried;         /* a second signal: nothing is waited for */
    int64_t hand_back_ns; /* when draining no longer waits for requests */
    int64_t drain_end_ns; /* when it waits for nothing any more */
};

/* Whether the options make sense together, as far as can be said without a
 * model and without opening anything. KV_INVALID, KV_NO_MEMORY. */
enum kv_status server_check_options(
    const struct options *options, struct kv_error *error);

/* server/server.c. KV_INVALID: the configuration cannot work; anything else: it
 * could not be had. What was opened is closed again. */
enum kv_status server_open(
    struct server *server, struct options *options, struct kv_error *error);

/* Listens, serves, takes signals. The loop may run then. */
enum kv_status server_start(struct server *server, struct kv_error *error);

/* KV_IO: receipts could not be kept, or the model's file was lost, so that an
 * orderly stop is none. Until server_close. */
enum kv_status server_check(
    const struct server *server, struct kv_error *error);

/* If the model's file is lost (model_check_file): says so in the log, once, and
 * that inference is not served any more. The pool and its receipts are. */
void server_lose_model(struct server *server);

/* After the loop stopped, or after a failed start. */
void server_close(struct server *server);

/* Of all services; health says so. */
void server_set_serving(struct server *server, bool serving);

/* What the loop would go on for. Again, or where nothing was opened: nothing.
 */
void server_close_timers(struct server *server);
void server_close_pages(struct server *server);

/* server/stop.c: SIGTERM or SIGINT has come. Drains, and stops the loop in the
 * end; the second time it does so at once. */
void server_stop(struct server *server, int number);

/* server/reload.c: reads the configuration again and takes what can be taken
 * while running; says in the log what was, what needs a restart, or why nothing
 * was. */
void server_reload(struct server *server, const char *requested_by);

/* service_*.c: their methods. */
enum kv_status service_pool_add(struct server *server);
enum kv_status service_evict_add(struct server *server);
enum kv_status service_retention_add(struct server *server);
enum kv_status service_receipts_add(struct server *server);
enum kv_status service_proof_add(struct server *server);
enum kv_status service_inference_add(struct server *server);
enum kv_status service_generate_add(struct server *server);

/* service_evict.c: what service_evict_add has opened, even if it failed. */
void service_evict_close(struct server *server);

/* service_receipts.c: streams get what is left, then `closing`. */
void service_receipts_start(struct server *server);
void service_receipts_drain(struct server *server);

/* service_proof.c: signs the first checkpoint, and one each tick. */
void service_proof_start(struct server *server);

#endif
