#include "rpc/reflection.h"

#include <assert.h>
#include <string.h>

#include <grpc/reflection/v1/reflection.pb-c.h>

#include "base/heap.h"
#include "base/list.h"
#include "rpc/call.h"
#include "rpc/descriptors.h"
#include "rpc/proto.h"

/* v1 and v1alpha have the same messages under other names, so that the structs
 * of v1 serve both.
 *
 * A stream asks and is answered in turn: the next question is read when the
 * last answer is out, so a client that reads nothing holds one answer. */

typedef Grpc__Reflection__V1__ServerReflectionRequest request_proto;
typedef Grpc__Reflection__V1__ServerReflectionResponse response_proto;

#define ASKS(what)                                                             \
    GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##what
#define ANSWERS(what)                                                          \
    GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##what

struct rpc_reflection {
    struct descriptors *index;
    struct kv_list streams;
    bool ending;

    /* Room for the longest answer, in which answers are put together. */
    size_t *files;
    ProtobufCBinaryData *file_bytes;
    Grpc__Reflection__V1__ServiceResponse *services;
    Grpc__Reflection__V1__ServiceResponse **service_list;
    size_t n_services;
};

struct stream {
    struct kv_list link;
    struct rpc_reflection *reflection;
    struct rpc_call *call;
    bool reading;
};

/* ---- answers */

/* Packed and sent, or the stream is failed. */
static void send_answer(struct rpc_call *call, const response_proto *response)
{
    size_t n =
        grpc__reflection__v1__server_reflection_response__get_packed_size(
            response);
    unsigned char *bytes = kv_calloc(n, 1);
    struct rpc_error error;

    if (bytes == NULL) {
        rpc_error_init(
            &error, RPC_RESOURCE_EXHAUSTED, "", "the server is out of memory");
        rpc_call_fail(call, &error);
        return;
    }
    grpc__reflection__v1__server_reflection_response__pack(response, bytes);
    rpc_stream_send(call, &(struct rpc_bytes){bytes, n, kv_free, bytes});
}

static void answer_error(struct rpc_call *call, response_proto *response,
    enum rpc_code code, const char *text)
{
    Grpc__Reflection__V1__ErrorResponse error =
        GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;

    error.error_code = (int32_t)code;
    error.error_message = RPC_PROTO_TEXT(text);
    response->message_response_case = ANSWERS(ERROR_RESPONSE);
    response->error_response = &error;
    send_answer(call, response);
}

static void answer_file(struct rpc_reflection *reflection,
    struct rpc_call *call, response_proto *response, size_t file)
{
    Grpc__Reflection__V1__FileDescriptorResponse files =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    const unsigned char *bytes;
    size_t n;

    if (file == DESCRIPTORS_NONE) {
        answer_error(call, response, RPC_NOT_FOUND, "not found");
        return;
    }
    n = descriptors_with_imports(reflection->index, file, reflection->files);
    files.n_file_descriptor_proto = n;
    files.file_descriptor_proto = reflection->file_bytes;
    for (size_t i = 0; i < n; i++) {
        bytes = descriptors_file(reflection->index, reflection->files[i],
            &reflection->file_bytes[i].len);
        reflection->file_bytes[i].data = (uint8_t *)(uintptr_t)bytes;
    }
    response->message_response_case = ANSWERS(FILE_DESCRIPTOR_RESPONSE);
    response->file_descriptor_response = &files;
    send_answer(call, response);
}

static void answer_services(struct rpc_reflection *reflection,
    struct rpc_call *call, response_proto *response)
{
    Grpc__Reflection__V1__ListServiceResponse list =
        GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;

    list.n_service = reflection->n_services;
    list.service = reflection->service_list;
    response->message_response_case = ANSWERS(LIST_SERVICES_RESPONSE);
    response->list_services_response = &list;
    send_answer(call, response);
}

static void answer(struct rpc_reflection *reflection, struct rpc_call *call,
    request_proto *request)
{
    response_proto response =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    const struct descriptors *index = reflection->index;

    response.valid_host = request->host;
    response.original_request = request;
    switch (request->message_request_case) {
    case ASKS(LIST_SERVICES):
        answer_services(reflection, call, &response);
        break;
    case ASKS(FILE_BY_FILENAME):
        answer_file(reflection, call, &response,
            descriptors_find_file(index, request->file_by_filename));
        break;
    case ASKS(FILE_CONTAINING_SYMBOL):
        answer_file(reflection, call, &response,
            descriptors_find_symbol(index, request->file_containing_symbol));
        break;
    case ASKS(FILE_CONTAINING_EXTENSION):
    case ASKS(ALL_EXTENSION_NUMBERS_OF_TYPE):
        answer_error(
            call, &response, RPC_NOT_FOUND, "no message here has extensions");
        break;
    default:
        answer_error(call, &response, RPC_INVALID_ARGUMENT,
            "the request asks for nothing that this server knows");
    }
}

/* ---- streams */

static void on_question(
    struct rpc_call *call, const unsigned char *bytes, size_t n)
{
    struct stream *stream = rpc_call_ctx(call);
    struct rpc_error error;
    request_proto *request;

    stream->reading = false;
    if (bytes == NULL) {
        rpc_stream_finish(call);
        return;
    }
    request = grpc__reflection__v1__server_reflection_request__unpack(
        RPC_PROTO_ALLOCATOR, n, bytes);
    if (request == NULL) {
        rpc_error_init(&error, RPC_INVALID_ARGUMENT, "INVALID_FIELD",
            "the request is not a ServerReflectionRequest");
        rpc_call_fail(call, &error);
        return;
    }
    if (rpc_stream_ready(call))
        answer(stream->reflection, call, request);
    grpc__reflection__v1__server_reflection_request__free_unpacked(
        request, RPC_PROTO_ALLOCATOR);
}

static void dismiss(struct stream *stream)
{
    struct rpc_error error;

    stream->reading = false;
    rpc_error_init(
        &error, RPC_UNAVAILABLE, "DRAINING", "the server is stopping");
    rpc_call_fail(stream->call, &error);
}

static void on_ready(struct rpc_call *call)
{
    struct stream *stream = rpc_call_ctx(call);

    if (stream->reflection->ending) {
        dismiss(stream);
        return;
    }
    stream->reading = true;
    call_receive(call, on_question);
}

static void on_cancel(struct rpc_call *call)
{
    struct stream *stream = rpc_call_ctx(call);

    stream->reading = false;
    rpc_stream_finish(call);
}

static void on_done(struct rpc_call *call)
{
    struct stream *stream = rpc_call_ctx(call);

    kv_list_remove(&stream->link);
    kv_free(stream);
}

static const struct rpc_stream_ops stream_ops = {on_ready, on_cancel, on_done};

static void on_call(void *ctx, struct rpc_call *call,
    const unsigned char *request, size_t n_request)
{
    struct rpc_reflection *reflection = ctx;
    struct stream *stream = kv_calloc(1, sizeof *stream);
    struct rpc_error error;

    (void)request; /* a bidirectional stream has none yet */
    (void)n_request;
    if (stream == NULL) {
        rpc_error_init(
            &error, RPC_RESOURCE_EXHAUSTED, "", "the server is out of memory");
        rpc_call_fail(call, &error);
        return;
    }
    stream->reflection = reflection;
    stream->call = call;
    kv_list_append(&reflection->streams, &stream->link);
    rpc_call_set_ctx(call, stream);
    rpc_stream_start(call, &stream_ops);
}

void rpc_reflection_end(struct rpc_reflection *reflection)
{
    struct stream *stream;

    reflection->ending = true;
    KV_LIST_EACH (node, &reflection->streams) {
        stream = KV_LIST_ENTRY(node, struct stream, link);
        if (stream->reading)
            dismiss(stream);
    }
}

/* ---- life */

static size_t count_services(const struct descriptors *index)
{
    size_t n = 0;

    while (descriptors_service(index, n) != NULL)
        n++;
    return n;
}

static enum kv_status make_room(struct rpc_reflection *reflection)
{
    size_t n_files = descriptors_n_files(reflection->index);
    size_t n_services = count_services(reflection->index);

    reflection->files = kv_calloc(n_files, sizeof *reflection->files);
    reflection->file_bytes = kv_calloc(n_files, sizeof *reflection->file_bytes);
    reflection->services = kv_calloc(n_services, sizeof *reflection->services);
    reflection->service_list =
        kv_calloc(n_services, sizeof(Grpc__Reflection__V1__ServiceResponse *));
    if (reflection->files == NULL || reflection->file_bytes == NULL ||
        reflection->services == NULL || reflection->service_list == NULL)
        return KV_NO_MEMORY;
    for (size_t i = 0; i < n_services; i++) {
        grpc__reflection__v1__service_response__init(&reflection->services[i]);
        reflection->services[i].name =
            RPC_PROTO_TEXT(descriptors_service(reflection->index, i));
        reflection->service_list[i] = &reflection->services[i];
    }
    reflection->n_services = n_services;
    return KV_OK;
}

static enum kv_status add_methods(
    struct rpc_reflection *reflection, struct rpc_server *server)
{
    static const char *const paths[] = {
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    };
    enum kv_status status = KV_OK;

    for (size_t i = 0; status == KV_OK && i < 2; i++)
        status =
            server_add_class(server, &(struct call_class){.shape = CALL_BIDI,
                                         .path = paths[i],
                                         .handler = on_call,
                                         .ctx = reflection});
    return status;
}

enum kv_status rpc_reflection_open(struct rpc_reflection **out,
    struct rpc_server *server, const unsigned char *descriptors, size_t n)
{
    struct rpc_reflection *reflection = kv_calloc(1, sizeof *reflection);
    enum kv_status status;

    if (reflection == NULL)
        return KV_NO_MEMORY;
    kv_list_init(&reflection->streams);
    status = descriptors_open(&reflection->index, descriptors, n);
    if (status == KV_OK)
        status = make_room(reflection);
    if (status == KV_OK)
        status = add_methods(reflection, server);
    if (status != KV_OK) {
        rpc_reflection_close(reflection);
        return status;
    }
    *out = reflection;
    return KV_OK;
}

void rpc_reflection_close(struct rpc_reflection *reflection)
{
    if (reflection == NULL)
        return;
    assert(kv_list_empty(&reflection->streams));
    kv_free(reflection->files);
    kv_free(reflection->file_bytes);
    kv_free(reflection->services);
    kv_free(reflection->service_list);
    descriptors_close(reflection->index);
    kv_free(reflection);
}
