// The peer of bench_fanout: C++ gRPC's asynchronous server, one completion queue
// and one thread, which streams to whoever calls StreamReceipts, without end.
//
//     bench_peer_stream ADDRESS BYTES PER_MESSAGE
//
// Every message has PER_MESSAGE receipts of BYTES bytes each, framed as ours
// are. It is encoded once, before the first call, and shared by all calls, as
// our log is; one write of each call is in flight. So there is neither a ledger
// nor anything to encode: the fastest fan-out that C++ gRPC has on one thread.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/rpc_service_method.h>
#include <grpcpp/impl/codegen/service_type.h>
#include <grpcpp/support/async_stream.h>

namespace {

using Writer = grpc::ServerAsyncWriter<grpc::ByteBuffer>;

class StreamService : public grpc::Service {
public:
    StreamService()
    {
        AddMethod(new grpc::internal::RpcServiceMethod(
            "/kvpool.v1.KvPoolService/StreamReceipts",
            grpc::internal::RpcMethod::SERVER_STREAMING, nullptr));
        MarkMethodRaw(0);
    }

    void Request(grpc::ServerContext *context, grpc::ByteBuffer *request,
        Writer *writer, grpc::ServerCompletionQueue *queue, void *tag)
    {
        RequestAsyncServerStreaming(
            0, context, request, writer, queue, queue, tag);
    }
};

class Call {
public:
    Call(StreamService *service, grpc::ServerCompletionQueue *queue,
        const grpc::ByteBuffer *message)
        : service_(service), queue_(queue), message_(message), writer_(&context_)
    {
        service_->Request(&context_, &request_, &writer_, queue_, this);
    }

    void Proceed(bool ok)
    {
        if (!began_ && ok)
            new Call(service_, queue_, message_);
        if (ended_ || (!began_ && !ok)) {
            delete this;
            return;
        }
        began_ = true;
        if (ok) {
            writer_.Write(*message_, this);
        } else { // the client has gone
            ended_ = true;
            writer_.Finish(grpc::Status::CANCELLED, this);
        }
    }

private:
    StreamService *service_;
    grpc::ServerCompletionQueue *queue_;
    const grpc::ByteBuffer *message_;
    grpc::ServerContext context_;
    grpc::ByteBuffer request_;
    Writer writer_;
    bool began_ = false, ended_ = false;
};

void PutVarint(std::string *out, size_t value)
{
    for (; value > 0x7f; value >>= 7)
        out->push_back(static_cast<char>(value | 0x80));
    out->push_back(static_cast<char>(value));
}

// Of all receipts of a message: field 1, as in StreamReceiptsResponse.
grpc::ByteBuffer MakeMessage(size_t n_bytes, size_t n_receipts)
{
    constexpr size_t kFrame = 3; // a tag, and a length of two bytes
    std::string bytes;

    for (size_t i = 0; i < n_receipts; i++) {
        bytes.push_back(0x0a);
        PutVarint(&bytes, n_bytes - kFrame);
        bytes.append(n_bytes - kFrame, 'r');
    }
    grpc::Slice slice(bytes);
    return grpc::ByteBuffer(&slice, 1);
}

} // namespace

int main(int argc, char **argv)
{
    constexpr int kArmed = 16;
    constexpr size_t kLeast = 131, kMost = 16384; // their length has two bytes
    size_t n_bytes = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 0;
    size_t n_receipts = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 0;
    StreamService service;
    grpc::ServerBuilder builder;
    void *tag;
    bool ok;

    if (argc != 4 || n_bytes < kLeast || n_bytes > kMost || n_receipts == 0) {
        std::fprintf(stderr,
            "usage: bench_peer_stream ADDRESS BYTES PER_MESSAGE\n");
        return 1;
    }
    const grpc::ByteBuffer message = MakeMessage(n_bytes, n_receipts);
    builder.AddListeningPort(argv[1], grpc::InsecureServerCredentials());
    builder.RegisterService(&service);
    std::unique_ptr<grpc::ServerCompletionQueue> queue =
        builder.AddCompletionQueue();
    std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
    if (server == nullptr)
        return 1;
    for (int i = 0; i < kArmed; i++)
        new Call(&service, queue.get(), &message);
    while (queue->Next(&tag, &ok)) // until it is killed
        static_cast<Call *>(tag)->Proceed(ok);
    return 0;
}
