#include "rpc/address.h"

#include <string.h>
#include <sys/un.h>

static const char unix_prefix[] = "unix:";

static enum kv_status not_an_address(
    const char *text, const char *why, struct kv_error *error)
{
    return kv_error_set(error, KV_INVALID,
        "\"%.200s\": %s; write host:port, [IPv6]:port or unix:/path", text,
        why);
}

static bool parse_port(const char *text, uint16_t *out)
{
    unsigned port = 0;

    if (*text == '\0')
        return false;
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9')
            return false;
        port = port * 10 + (unsigned)(*text - '0');
        if (port > UINT16_MAX)
            return false;
    }
    *out = (uint16_t)port;
    return true;
}

static enum kv_status parse_unix(
    struct rpc_address *out, const char *text, struct kv_error *error)
{
    const char *path = text + strlen(unix_prefix);

    if (*path != '/')
        return not_an_address(text, "the path is not absolute", error);
    if (strlen(path) >= sizeof((struct sockaddr_un *)NULL)->sun_path)
        return not_an_address(text, "the path is longer than 107 bytes", error);
    *out = (struct rpc_address){.is_unix = true};
    memcpy(out->host, path, strlen(path));
    return KV_OK;
}

enum kv_status rpc_address_parse(
    struct rpc_address *out, const char *text, struct kv_error *error)
{
    struct rpc_address address = {0};
    const char *host = text, *colon = strrchr(text, ':'), *host_end = colon;

    if (strncmp(text, unix_prefix, strlen(unix_prefix)) == 0)
        return parse_unix(out, text, error);
    if (colon == NULL)
        return not_an_address(text, "the port is missing", error);
    if (*host == '[') {
        host++;
        host_end = colon - 1;
        if (host_end < host || *host_end != ']')
            return not_an_address(text, "the brackets do not match", error);
    } else if (memchr(host, ':', (size_t)(colon - host)) != NULL) {
        return not_an_address(text, "IPv6 needs brackets", error);
    }
    if (host_end == host)
        return not_an_address(
            text, "the host is missing (every interface is 0.0.0.0)", error);
    if ((size_t)(host_end - host) >= sizeof address.host)
        return not_an_address(text, "the host is too long", error);
    if (!parse_port(colon + 1, &address.port))
        return not_an_address(text, "the port is not 0 to 65535", error);
    memcpy(address.host, host, (size_t)(host_end - host));
    *out = address;
    return KV_OK;
}
