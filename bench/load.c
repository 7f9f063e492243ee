#include "bench/load.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <grpc/grpc_security.h>
#include <grpc/slice.h>

#include "base/clock.h"

grpc_channel *load_channel(const char *address)
{
    static char local[] = GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL;
    grpc_arg arg = {.type = GRPC_ARG_INTEGER, .key = local, .value.integer = 1};
    grpc_channel_args args = {1, &arg};
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create(address, credentials, &args);

    grpc_channel_credentials_release(credentials);
    return channel;
}

bool load_parse_hex(const char *text, grpc_slice *out)
{
    size_t n = strcmp(text, "-") == 0 ? 0 : strlen(text);
    grpc_slice slice = grpc_slice_malloc(n / 2);
    uint8_t *bytes = GRPC_SLICE_START_PTR(slice);
    unsigned byte;

    for (size_t i = 0; i < n / 2; i++) {
        if (!isxdigit((unsigned char)text[2 * i]) ||
            sscanf(text + 2 * i, "%2x", &byte) != 1) {
            grpc_slice_unref(slice);
            return false;
        }
        bytes[i] = (uint8_t)byte;
    }
    *out = slice;
    return n % 2 == 0;
}

int64_t load_cpu_ns(int pid)
{
    unsigned long user = 0, system = 0;
    char path[64], text[1024];
    const char *behind_name;
    size_t n;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    file = pid != 0 ? fopen(path, "r") : NULL;
    if (file == NULL)
        return 0;
    n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = '\0';
    behind_name = strrchr(text, ')');
    if (behind_name == NULL ||
        sscanf(behind_name + 1,
            " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
            &system) != 2)
        return 0;
    return (int64_t)(user + system) * (KV_NS_PER_S / sysconf(_SC_CLK_TCK));
}
