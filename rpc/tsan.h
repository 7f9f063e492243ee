/* Tells ThreadSanitizer what it cannot see: gRPC core is not instrumented, so
 * what is written before a hand-over to core and read after core's answer looks
 * unordered. Nothing in any other build. */
#ifndef RPC_TSAN_H
#define RPC_TSAN_H

#if defined(__SANITIZE_THREAD__)
#define RPC_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RPC_TSAN 1
#endif
#endif

#ifdef RPC_TSAN
#include <sanitizer/tsan_interface.h>
#define RPC_TSAN_RELEASE(ptr) __tsan_release(ptr)
#define RPC_TSAN_ACQUIRE(ptr) __tsan_acquire(ptr)
#else
#define RPC_TSAN_RELEASE(ptr) ((void)(ptr))
#define RPC_TSAN_ACQUIRE(ptr) ((void)(ptr))
#endif

#endif
