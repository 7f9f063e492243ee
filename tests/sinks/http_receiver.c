#include "tests/sinks/http_receiver.h"
#include "tests/support/check_main.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <zlib.h>

#define FLOOD_BYTES 65536

struct connection {
    uv_tcp_t tcp;
    uv_timer_t drip;
    struct http_receiver *receiver;
    char *bytes;
    size_t n_bytes;
    const char *rest; /* of a dripping answer */
    unsigned n_open;
};

static const char accepted[] = "HTTP/1.1 204 No Content\r\n\r\n";
static const char flood[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";

static void on_closed(uv_handle_t *handle)
{
    struct connection *connection = handle->data;

    if (--connection->n_open > 0)
        return;
    free(connection->bytes);
    free(connection);
}

static void hang_up(struct connection *connection)
{
    if (uv_is_closing((uv_handle_t *)&connection->tcp))
        return;
    uv_close((uv_handle_t *)&connection->tcp, on_closed);
    uv_close((uv_handle_t *)&connection->drip, on_closed);
}

static void on_reset_closed(uv_handle_t *handle)
{
    on_closed(handle);
}

static void reset(struct connection *connection)
{
    uv_close((uv_handle_t *)&connection->drip, on_closed);
    if (uv_tcp_close_reset(&connection->tcp, on_reset_closed) != 0)
        uv_close((uv_handle_t *)&connection->tcp, on_closed);
}

static void on_written(uv_write_t *write, int failed)
{
    (void)failed;
    free(write);
}

static void say(struct connection *connection, const char *bytes, size_t n)
{
    uv_write_t *write = malloc(sizeof *write);
    uv_buf_t buf = uv_buf_init((char *)bytes, (unsigned)n);

    if (uv_write(write, (uv_stream_t *)&connection->tcp, &buf, 1, on_written) !=
        0)
        free(write);
}

/* ---- what comes in */

static char *unpack(const char *bytes, size_t n_bytes, size_t *n_out)
{
    size_t capacity = 64 << 20;
    char *out = malloc(capacity);
    z_stream stream = {.next_in = (unsigned char *)bytes,
        .avail_in = (unsigned)n_bytes,
        .next_out = (unsigned char *)out,
        .avail_out = (unsigned)capacity};

    ck_assert_int_eq(inflateInit2(&stream, 15 + 16), Z_OK);
    ck_assert_int_eq(inflate(&stream, Z_FINISH), Z_STREAM_END);
    *n_out = stream.total_out;
    inflateEnd(&stream);
    return out;
}

static void keep_events(struct http_receiver *receiver)
{
    json_t *batch =
        json_loadb(receiver->last.body, receiver->last.n_body, 0, NULL);
    json_t *event, *before;
    size_t i;

    ck_assert(json_is_array(batch));
    ck_assert_uint_gt(json_array_size(batch), 0);
    json_array_foreach(batch, i, event)
    {
        json_t *id = json_object_get(event, "id");

        json_array_append(receiver->ids, id);
        before = json_object_get(receiver->events, json_string_value(id));
        if (before != NULL)
            ck_assert(json_equal(before, event));
        else
            json_object_set(receiver->events, json_string_value(id), event);
    }
    json_decref(batch);
}

static void on_drip(uv_timer_t *timer)
{
    struct connection *connection = timer->data;

    say(connection, connection->rest, 1);
    if (*++connection->rest == '\0')
        uv_timer_stop(timer);
}

static void on_flood(uv_timer_t *timer)
{
    static const char bytes[FLOOD_BYTES];
    struct connection *connection = timer->data;

    if (uv_stream_get_write_queue_size((uv_stream_t *)&connection->tcp) == 0)
        say(connection, bytes, sizeof bytes);
}

static void answer(struct connection *connection)
{
    struct http_receiver *receiver = connection->receiver;

    switch (receiver->mood) {
    case RECEIVER_ACCEPTS:
        keep_events(receiver);
        say(connection, accepted, sizeof accepted - 1);
        break;
    case RECEIVER_ANSWERS:
        say(connection, receiver->answer, strlen(receiver->answer));
        break;
    case RECEIVER_STALLS:
        say(connection, accepted, 5);
        break;
    case RECEIVER_RESETS:
        reset(connection);
        break;
    case RECEIVER_FORGETS:
        keep_events(receiver);
        hang_up(connection);
        break;
    case RECEIVER_DRIPS:
        keep_events(receiver);
        connection->rest = accepted;
        uv_timer_start(&connection->drip, on_drip, 1, 1);
        break;
    case RECEIVER_FLOODS:
        keep_events(receiver);
        say(connection, flood, sizeof flood - 1);
        uv_timer_start(&connection->drip, on_flood, 0, 1);
        break;
    }
}

static const char *header_of(const char *head, const char *name)
{
    static char value[16384];
    size_t n_name = strlen(name);

    for (const char *at = head; (at = strstr(at, "\r\n")) != NULL;) {
        at += 2;
        if (strncasecmp(at, name, n_name) == 0 && at[n_name] == ':') {
            size_t n = strcspn(at + n_name + 2, "\r");

            ck_assert_uint_lt(n, sizeof value);
            memcpy(value, at + n_name + 2, n);
            value[n] = '\0';
            return value;
        }
    }
    return NULL;
}

const char *http_receiver_header(
    const struct http_receiver *receiver, const char *name)
{
    return receiver->last.head == NULL ? NULL
                                       : header_of(receiver->last.head, name);
}

static void forget_request(struct receiver_request *request)
{
    free(request->head);
    free(request->body);
    *request = (struct receiver_request){0};
}

/* A whole request from the connection's bytes, if there is one. */
static bool take_request(struct connection *connection)
{
    struct receiver_request *last = &connection->receiver->last;
    char *body = strstr(connection->bytes, "\r\n\r\n");
    size_t n_head, n_body;
    const char *encoding;

    if (body == NULL)
        return false;
    body += 4;
    n_head = (size_t)(body - connection->bytes);
    forget_request(last);
    last->head = strndup(connection->bytes, n_head);
    n_body = strtoull(header_of(last->head, "Content-Length"), NULL, 10);
    if (connection->n_bytes < n_head + n_body)
        return false;
    encoding = header_of(last->head, "Content-Encoding");
    if (encoding != NULL && strcmp(encoding, "gzip") == 0) {
        last->body = unpack(body, n_body, &last->n_body);
    } else {
        last->body = malloc(n_body + 1);
        memcpy(last->body, body, n_body);
        last->n_body = n_body;
    }
    connection->n_bytes -= n_head + n_body;
    memmove(connection->bytes, body + n_body, connection->n_bytes + 1);
    return true;
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    (void)handle;
    *buf = uv_buf_init(malloc(size), (unsigned)size);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct connection *connection = stream->data;
    struct http_receiver *receiver = connection->receiver;

    if (n > 0) {
        connection->bytes =
            realloc(connection->bytes, connection->n_bytes + (size_t)n + 1);
        memcpy(connection->bytes + connection->n_bytes, buf->base, (size_t)n);
        connection->n_bytes += (size_t)n;
        connection->bytes[connection->n_bytes] = '\0';
    }
    free(buf->base);
    if (n < 0) {
        hang_up(connection);
    } else if (receiver->mood == RECEIVER_RESETS || take_request(connection)) {
        receiver->n_requests++;
        answer(connection);
    }
}

static void on_connection(uv_stream_t *listener, int failed)
{
    struct http_receiver *receiver = listener->data;
    struct connection *connection = calloc(1, sizeof *connection);

    ck_assert_int_eq(failed, 0);
    connection->receiver = receiver;
    uv_tcp_init(receiver->loop, &connection->tcp);
    uv_timer_init(receiver->loop, &connection->drip);
    connection->tcp.data = connection->drip.data = connection;
    connection->n_open = 2;
    receiver->n_connections++;
    ck_assert_int_eq(uv_accept(listener, (uv_stream_t *)&connection->tcp), 0);
    uv_read_start((uv_stream_t *)&connection->tcp, on_alloc, on_read);
}

/* ---- life */

static void start(struct http_receiver *receiver, int port)
{
    struct sockaddr_in address;
    int n = sizeof address;

    uv_ip4_addr("127.0.0.1", port, &address);
    uv_tcp_init(receiver->loop, &receiver->listener);
    receiver->listener.data = receiver;
    ck_assert_int_eq(
        uv_tcp_bind(&receiver->listener, (const struct sockaddr *)&address, 0),
        0);
    ck_assert_int_eq(
        uv_listen((uv_stream_t *)&receiver->listener, 16, on_connection), 0);
    ck_assert_int_eq(uv_tcp_getsockname(
                         &receiver->listener, (struct sockaddr *)&address, &n),
        0);
    receiver->port = ntohs(address.sin_port);
    snprintf(receiver->url, sizeof receiver->url, "http://127.0.0.1:%d/in?a=b",
        receiver->port);
}

void http_receiver_init(struct http_receiver *receiver, uv_loop_t *loop)
{
    *receiver = (struct http_receiver){.loop = loop};
    receiver->ids = json_array();
    receiver->events = json_object();
    start(receiver, 0);
}

void http_receiver_stop(struct http_receiver *receiver)
{
    uv_close((uv_handle_t *)&receiver->listener, NULL);
    uv_run(receiver->loop, UV_RUN_NOWAIT);
}

void http_receiver_start_again(struct http_receiver *receiver)
{
    start(receiver, receiver->port);
}

static void hang_up_each(uv_handle_t *handle, void *ctx)
{
    if (handle->type == UV_TCP && handle != ctx && !uv_is_closing(handle))
        hang_up(handle->data);
}

void http_receiver_fini(struct http_receiver *receiver)
{
    uv_walk(receiver->loop, hang_up_each, &receiver->listener);
    if (!uv_is_closing((uv_handle_t *)&receiver->listener))
        uv_close((uv_handle_t *)&receiver->listener, NULL);
    forget_request(&receiver->last);
    json_decref(receiver->ids);
    json_decref(receiver->events);
}
