// The peer of bench_unary: C++ gRPC's asynchronous server, one completion queue
// and one thread, answering /bench.v1.Bench/Echo with the bytes of the request.
//
//     bench_peer_echo ADDRESS
//
// The service is what protoc generates for a raw method (ByteBuffer in and out),
// written by hand, so that no message is decoded: the fastest C++ there is.
#include <cstdio>
#include <memory>

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/async_unary_call.h>
#include <grpcpp/impl/codegen/rpc_service_method.h>
#include <grpcpp/impl/codegen/service_type.h>

namespace {

class EchoService : public grpc::Service {
public:
    EchoService()
    {
        AddMethod(new grpc::internal::RpcServiceMethod("/bench.v1.Bench/Echo",
            grpc::internal::RpcMethod::NORMAL_RPC, nullptr));
        MarkMethodRaw(0);
    }

    void Request(grpc::ServerContext *context, grpc::ByteBuffer *request,
        grpc::ServerAsyncResponseWriter<grpc::ByteBuffer> *writer,
        grpc::ServerCompletionQueue *queue, void *tag)
    {
        RequestAsyncUnary(0, context, request, writer, queue, queue, tag);
    }
};

class Call {
public:
    Call(EchoService *service, grpc::ServerCompletionQueue *queue)
        : service_(service), queue_(queue), writer_(&context_)
    {
        service_->Request(&context_, &request_, &writer_, queue_, this);
    }

    void Proceed(bool ok)
    {
        if (!ok || answered_) {
            delete this;
            return;
        }
        new Call(service_, queue_);
        answered_ = true;
        writer_.Finish(request_, grpc::Status::OK, this);
    }

private:
    EchoService *service_;
    grpc::ServerCompletionQueue *queue_;
    grpc::ServerContext context_;
    grpc::ByteBuffer request_;
    grpc::ServerAsyncResponseWriter<grpc::ByteBuffer> writer_;
    bool answered_ = false;
};

} // namespace

int main(int argc, char **argv)
{
    constexpr int kArmed = 64;
    EchoService service;
    grpc::ServerBuilder builder;
    void *tag;
    bool ok;

    if (argc != 2) {
        std::fprintf(stderr, "usage: bench_peer_echo ADDRESS\n");
        return 1;
    }
    builder.AddListeningPort(argv[1], grpc::InsecureServerCredentials());
    builder.RegisterService(&service);
    std::unique_ptr<grpc::ServerCompletionQueue> queue =
        builder.AddCompletionQueue();
    std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
    if (server == nullptr)
        return 1;
    for (int i = 0; i < kArmed; i++)
        new Call(&service, queue.get());
    while (queue->Next(&tag, &ok)) // until it is killed
        static_cast<Call *>(tag)->Proceed(ok);
    return 0;
}
