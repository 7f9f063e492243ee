#include "tests/sinks/sink_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/heap.h"
#include "tests/support/check_main.h"

static int64_t wall_ns(void)
{
    return INT64_C(1763755000123456789);
}

void sink_rig_init(struct sink_rig *rig)
{
    const struct ledger_config config = {.ring_bytes = 16 << 20,
        .pool_id = {0x5f, 0x0c, 0xe1},
        .epoch = 3,
        .wall_ns = wall_ns};

    *rig = (struct sink_rig){.dir = "/tmp/sink_test.XXXXXX"};
    ck_assert_ptr_nonnull(mkdtemp(rig->dir));
    ck_assert_int_eq(uv_loop_init(&rig->loop), 0);
    ck_assert_int_eq(ledger_open(&rig->ledger, &config, NULL), KV_OK);
    ck_assert_int_eq(sink_set_open(&rig->set, rig->ledger), KV_OK);
}

static void on_set_closed(void *ctx)
{
    ((struct sink_rig *)ctx)->closing = NULL;
}

static bool set_is_closed(void *ctx)
{
    return ((struct sink_rig *)ctx)->closing == NULL;
}

void sink_rig_close_set(struct sink_rig *rig)
{
    if (rig->set == NULL)
        return;
    rig->closing = rig->set;
    rig->set = NULL;
    sink_set_close(rig->closing, on_set_closed, rig);
    sink_rig_run_until(rig, set_is_closed, rig);
}

void sink_rig_fini(struct sink_rig *rig)
{
    char command[128];

    sink_rig_close_set(rig);
    uv_run(&rig->loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&rig->loop), 0);
    ledger_close(rig->ledger);
    snprintf(command, sizeof command, "rm -rf %s", rig->dir);
    ck_assert_int_eq(system(command), 0);
}

/* ---- settings */

static void set_standard(const struct sink_setting *setting, char *field)
{
    const char *standard = setting->standard != NULL ? setting->standard : "";

    if (setting->kind == SINK_UINT)
        *(uint64_t *)(void *)field = strtoull(standard, NULL, 10);
    else if (setting->kind == SINK_BOOL)
        *(bool *)(void *)field = strcmp(standard, "true") == 0;
    else
        *(const char **)(void *)field = standard;
}

void *sink_rig_settings(const struct sink_kind *kind)
{
    char *settings = calloc(1, kind->settings_bytes);

    ck_assert_ptr_nonnull(settings);
    for (size_t i = 0; i < kind->n_settings; i++)
        set_standard(&kind->settings[i], settings + kind->settings[i].offset);
    return settings;
}

static void *find_field(
    const struct sink_kind *kind, void *settings, const char *name)
{
    for (size_t i = 0; i < kind->n_settings; i++) {
        if (strcmp(kind->settings[i].name, name) == 0)
            return (char *)settings + kind->settings[i].offset;
    }
    ck_abort_msg("%s has no setting %s", kind->name, name);
    return NULL;
}

void sink_rig_set_text(const struct sink_kind *kind, void *settings,
    const char *name, const char *value)
{
    *(const char **)find_field(kind, settings, name) = value;
}

void sink_rig_set_uint(const struct sink_kind *kind, void *settings,
    const char *name, uint64_t value)
{
    *(uint64_t *)find_field(kind, settings, name) = value;
}

void sink_rig_set_bool(
    const struct sink_kind *kind, void *settings, const char *name, bool value)
{
    *(bool *)find_field(kind, settings, name) = value;
}

struct sink *sink_rig_add(struct sink_rig *rig, const struct sink_kind *kind,
    const char *name, const void *settings)
{
    const char *field = "";
    struct kv_error error = {.text = ""};
    struct sink *sink;

    ck_assert_msg(kind->check(settings, &field, &error) == KV_OK, "%s: %s",
        field, error.text);
    ck_assert_msg(
        kind->open(&sink, name, settings, &rig->loop, &error) == KV_OK, "%s",
        error.text);
    ck_assert_int_eq(sink_set_add(rig->set, sink, &error), KV_OK);
    return sink;
}

const char *sink_rig_complaint(
    const struct sink_kind *kind, const void *settings)
{
    static char text[KV_ERROR_TEXT_BYTES + 64];
    struct kv_error error = {.text = ""};
    const char *field = "";

    if (kind->check(settings, &field, &error) == KV_OK)
        return "";
    ck_assert_int_eq(error.status, KV_INVALID);
    snprintf(text, sizeof text, "%s: %s", field, error.text);
    return text;
}

void sink_rig_issue(struct sink_rig *rig, int n)
{
    for (int i = 0; i < n; i++)
        ledger_issue_drain(rig->ledger, "a test", 1, 1);
}

/* ---- running */

/* It wakes the loop too. */
static void on_tick(uv_timer_t *timer)
{
    struct sink_rig *rig = timer->data;

    if (rig->closing != NULL)
        sink_set_tick(rig->closing, kv_clock_mono_ns());
}

void sink_rig_run_until(
    struct sink_rig *rig, bool (*holds)(void *ctx), void *ctx)
{
    int64_t end = kv_clock_mono_ns() + RIG_SECONDS * KV_NS_PER_S;
    uv_timer_t tick;

    uv_timer_init(&rig->loop, &tick);
    tick.data = rig;
    uv_timer_start(&tick, on_tick, 10, 10);
    while (!holds(ctx)) {
        ck_assert_msg(kv_clock_mono_ns() < end, "it does not happen: %s",
            rig->set != NULL && sink_set_first(rig->set) != NULL
                ? sink_set_first(rig->set)->last_error
                : "");
        uv_run(&rig->loop, UV_RUN_ONCE);
    }
    uv_close((uv_handle_t *)&tick, NULL);
    uv_run(&rig->loop, UV_RUN_NOWAIT);
}

struct wish {
    struct sink *sink;
    uint64_t sequence;
    const char *words;
    int64_t end_ns;
};

static bool is_acknowledged(void *ctx)
{
    const struct wish *wish = ctx;

    return wish->sink->acknowledged_sequence >= wish->sequence;
}

void sink_rig_run_until_acknowledged(
    struct sink_rig *rig, struct sink *sink, uint64_t sequence)
{
    struct wish wish = {.sink = sink, .sequence = sequence};

    sink_rig_run_until(rig, is_acknowledged, &wish);
}

static bool has_error(void *ctx)
{
    const struct wish *wish = ctx;

    return strstr(wish->sink->last_error, wish->words) != NULL;
}

void sink_rig_run_until_error(
    struct sink_rig *rig, struct sink *sink, const char *words)
{
    struct wish wish = {.sink = sink, .words = words};

    sink_rig_run_until(rig, has_error, &wish);
}

static bool is_late(void *ctx)
{
    const struct wish *wish = ctx;

    return kv_clock_mono_ns() >= wish->end_ns;
}

void sink_rig_run_for(struct sink_rig *rig, uint64_t ms)
{
    struct wish wish = {
        .end_ns = kv_clock_mono_ns() + (int64_t)ms * KV_NS_PER_MS};

    sink_rig_run_until(rig, is_late, &wish);
}

/* ---- files */

const char *sink_rig_path(struct sink_rig *rig, const char *name)
{
    static char paths[8][128]; /* of the last calls */
    static unsigned n;
    char *path = paths[n++ % 8];

    snprintf(path, sizeof paths[0], "%s/%s", rig->dir, name);
    return path;
}

void sink_rig_write(struct sink_rig *rig, const char *name, const char *text)
{
    FILE *file = fopen(sink_rig_path(rig, name), "w");

    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
}

void sink_rig_make_certificates(struct sink_rig *rig, const char *host)
{
    static const char format[] =
        "cd %s && exec >openssl.log 2>&1 && "
        "ec='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes' && "
        "openssl req -x509 $ec -keyout ca.key -out ca.pem -subj /CN=ca && "
        "openssl req -x509 $ec -keyout other.key -out other-ca.pem "
        "-subj /CN=other && "
        "openssl req $ec -keyout server.key -out server.csr -subj /CN=kvpool "
        "&& "
        "printf 'subjectAltName=DNS:%s\\n' >server.ext && "
        "openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key "
        "-CAcreateserial -days 2 -extfile server.ext -out server.pem";
    char command[1024];

    snprintf(command, sizeof command, format, rig->dir, host);
    ck_assert_int_eq(system(command), 0);
}
