#include <string.h>

#include "base/clock.h"
#include "base/heap.h"
#include "google/protobuf/descriptor.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"
#include "rpc/descriptors.h"
#include "tests/rpc/rig.h"
#include "tests/support/check_main.h"
#include "tests/support/faulty_heap.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest request_proto;
typedef Grpc__Reflection__V1__ServerReflectionResponse response_proto;

#define ASKS(what)                                                             \
    GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##what
#define ANSWERS(what)                                                          \
    GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##what

static const char *const paths[] = {
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
};

extern const unsigned char test_descriptors[], test_descriptors_end[];

static struct rig rig;
static struct rpc_client *client;
static struct rpc_error error;

static void set_up(void)
{
    const struct rpc_server_config config = {.descriptors = test_descriptors,
        .n_descriptors = (size_t)(test_descriptors_end - test_descriptors)};

    rig_open(&rig, config, "127.0.0.1:0");
    rig_start(&rig);
    client = rig_client(&rig);
}

static void tear_down(void)
{
    rpc_client_close(client);
    rig_close(&rig);
}

static response_proto *ask(const char *path, request_proto *request)
{
    const struct rpc_client_options options = {.timeout_ns = 0};
    unsigned char packed[256], *bytes;
    struct rpc_client_stream *stream;
    response_proto *response;
    size_t n =
        grpc__reflection__v1__server_reflection_request__pack(request, packed);

    ck_assert_int_eq(
        rpc_client_stream_open(client, path, packed, n, &options, &stream),
        KV_OK);
    ck_assert_int_eq(
        rpc_client_stream_next(stream, INT64_MAX, &bytes, &n, &error), KV_OK);
    response = grpc__reflection__v1__server_reflection_response__unpack(
        NULL, n, bytes);
    ck_assert_ptr_nonnull(response);
    kv_free(bytes);
    ck_assert_int_eq(
        rpc_client_stream_next(stream, INT64_MAX, &bytes, &n, &error),
        KV_CLOSED);
    ck_assert_int_eq(error.code, RPC_OK);
    rpc_client_stream_close(stream);
    return response;
}

static void done(response_proto *response)
{
    grpc__reflection__v1__server_reflection_response__free_unpacked(
        response, NULL);
}

static request_proto about_symbol(const char *symbol)
{
    request_proto request =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;

    request.message_request_case = ASKS(FILE_CONTAINING_SYMBOL);
    request.file_containing_symbol = (char *)(uintptr_t)symbol;
    return request;
}

static bool has_service(
    const Grpc__Reflection__V1__ListServiceResponse *list, const char *name)
{
    for (size_t i = 0; i < list->n_service; i++) {
        if (strcmp(list->service[i]->name, name) == 0)
            return true;
    }
    return false;
}

START_TEST(both_versions_list_the_services)
{
    request_proto request =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    response_proto *response;

    request.host = (char *)(uintptr_t) "somewhere";
    request.message_request_case = ASKS(LIST_SERVICES);
    request.list_services = (char *)(uintptr_t) "";
    for (int i = 0; i < 2; i++) {
        response = ask(paths[i], &request);
        ck_assert_int_eq(
            response->message_response_case, ANSWERS(LIST_SERVICES_RESPONSE));
        ck_assert(has_service(
            response->list_services_response, "kvpool.v1.KvPoolService"));
        ck_assert(has_service(
            response->list_services_response, "kvpool.v1.InferenceService"));
        ck_assert(has_service(
            response->list_services_response, "grpc.health.v1.Health"));
        ck_assert(!has_service(
            response->list_services_response, "kvpool.v1.Receipt"));
        ck_assert_str_eq(response->valid_host, "somewhere");
        ck_assert_str_eq(response->original_request->host, "somewhere");
        done(response);
    }
}
END_TEST

/* The names of the files in an answer, "a b c ". */
static void read_files(const response_proto *response, char out[1024])
{
    const Grpc__Reflection__V1__FileDescriptorResponse *list =
        response->file_descriptor_response;
    Google__Protobuf__FileDescriptorProto *file;

    ck_assert_int_eq(
        response->message_response_case, ANSWERS(FILE_DESCRIPTOR_RESPONSE));
    out[0] = '\0';
    for (size_t i = 0; i < list->n_file_descriptor_proto; i++) {
        file = google__protobuf__file_descriptor_proto__unpack(NULL,
            list->file_descriptor_proto[i].len,
            list->file_descriptor_proto[i].data);
        ck_assert_ptr_nonnull(file);
        ck_assert_ptr_null(strstr(out, file->name));
        strcat(strcat(out, file->name), " ");
        google__protobuf__file_descriptor_proto__free_unpacked(file, NULL);
    }
}

START_TEST(every_kind_of_symbol_leads_to_its_file_and_what_that_imports)
{
    static const char *const symbols[] = {
        "kvpool.v1.KvPoolService",
        "kvpool.v1.KvPoolService.Evict",
        "kvpool.v1.EvictTarget",
        "kvpool.v1.EvictTarget.session",
        "kvpool.v1.EvictTarget.target",
    };
    char files[1024];
    request_proto request;
    response_proto *response;

    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        request = about_symbol(symbols[i]);
        response = ask(paths[i % 2], &request);
        read_files(response, files);
        ck_assert_int_eq(
            strncmp(files, "kvpool/v1/pool_service.proto ", 29), 0);
        ck_assert_ptr_nonnull(strstr(files, "kvpool/v1/receipts.proto "));
        ck_assert_ptr_nonnull(strstr(files, "kvpool/v1/common.proto "));
        done(response);
    }
    request = about_symbol("kvpool.v1.ERROR_REASON_DRAINING");
    response = ask(paths[0], &request);
    read_files(response, files);
    ck_assert_str_eq(files, "kvpool/v1/errors.proto ");
    done(response);
}
END_TEST

START_TEST(a_file_is_found_by_its_name)
{
    request_proto request =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
    response_proto *response;
    char files[1024];

    request.message_request_case = ASKS(FILE_BY_FILENAME);
    request.file_by_filename =
        (char *)(uintptr_t) "grpc/health/v1/health.proto";
    response = ask(paths[0], &request);
    read_files(response, files);
    ck_assert_str_eq(files, "grpc/health/v1/health.proto ");
    done(response);
}
END_TEST

static void expect_error(request_proto *request, enum rpc_code code)
{
    response_proto *response = ask(paths[0], request);

    ck_assert_int_eq(response->message_response_case, ANSWERS(ERROR_RESPONSE));
    ck_assert_int_eq(response->error_response->error_code, (int)code);
    done(response);
}

START_TEST(what_is_not_there_is_not_found)
{
    Grpc__Reflection__V1__ExtensionRequest extension =
        GRPC__REFLECTION__V1__EXTENSION_REQUEST__INIT;
    request_proto request = about_symbol("kvpool.v1.Nothing");

    expect_error(&request, RPC_NOT_FOUND);
    request = about_symbol("");
    expect_error(&request, RPC_NOT_FOUND);
    request.message_request_case = ASKS(FILE_BY_FILENAME);
    request.file_by_filename = (char *)(uintptr_t) "nothing.proto";
    expect_error(&request, RPC_NOT_FOUND);
    request.message_request_case = ASKS(ALL_EXTENSION_NUMBERS_OF_TYPE);
    request.all_extension_numbers_of_type =
        (char *)(uintptr_t) "kvpool.v1.Receipt";
    expect_error(&request, RPC_NOT_FOUND);
    request.message_request_case = ASKS(FILE_CONTAINING_EXTENSION);
    request.file_containing_extension = &extension;
    expect_error(&request, RPC_NOT_FOUND);
    grpc__reflection__v1__server_reflection_request__init(&request);
    expect_error(&request, RPC_INVALID_ARGUMENT);
}
END_TEST

START_TEST(bytes_that_are_no_request_end_the_stream)
{
    const struct rpc_client_options options = {.timeout_ns = 0};
    struct rpc_client_stream *stream;
    unsigned char *bytes;
    size_t n;

    ck_assert_int_eq(rpc_client_stream_open(
                         client, paths[0], "\x0a\x7f", 2, &options, &stream),
        KV_OK);
    ck_assert_int_eq(
        rpc_client_stream_next(stream, INT64_MAX, &bytes, &n, &error),
        KV_CLOSED);
    ck_assert_int_eq(error.code, RPC_INVALID_ARGUMENT);
    rpc_client_stream_close(stream);
}
END_TEST

START_TEST(an_index_opens_whole_or_not_at_all)
{
    struct descriptors *index;
    size_t n = (size_t)(test_descriptors_end - test_descriptors);
    enum kv_status status;

    ck_assert_int_eq(
        descriptors_open(&index, test_descriptors, n - 1), KV_INVALID);
    ck_assert_int_eq(
        descriptors_open(&index, (const unsigned char *)"\x08\x01", 2),
        KV_INVALID);
    faulty_heap_install();
    for (int nth = 0, step = 1;; nth += step) {
        faulty_heap_fail_at(nth);
        status = descriptors_open(&index, test_descriptors, n);
        faulty_heap_fail_at(-1);
        if (status == KV_OK)
            break;
        ck_assert_int_eq(faulty_heap_live(), 0);
        step = 1 + nth / 20; /* each of the first, then a sample */
    }
    descriptors_close(index);
    ck_assert_int_eq(faulty_heap_live(), 0);
    kv_heap_use(NULL);
}
END_TEST

int main(void)
{
    const TTest *tests[] = {
        both_versions_list_the_services,
        every_kind_of_symbol_leads_to_its_file_and_what_that_imports,
        a_file_is_found_by_its_name,
        what_is_not_there_is_not_found,
        bytes_that_are_no_request_end_the_stream,
        an_index_opens_whole_or_not_at_all,
    };

    return CHECK_RUN("rpc reflection", set_up, tear_down, tests);
}
