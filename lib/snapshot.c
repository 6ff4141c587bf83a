#include "snapshot.h"

#include "kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t realtime_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct consul_snapshot *consul_snapshot_ref(struct consul_snapshot *snapshot)
{
    __atomic_fetch_add(&snapshot->refs, 1, __ATOMIC_RELAXED);
    return snapshot;
}

void consul_snapshot_unref(struct consul_snapshot *snapshot)
{
    if (!snapshot || __atomic_sub_fetch(&snapshot->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    json_decref(snapshot->json);
    kv_list_clear(&snapshot->kv);
    free(snapshot->text);
    free(snapshot);
}

/* Eight bytes at a time, as answers are large: a multiplication moves what differs up, the shift moves it down. */
static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

uint64_t snapshot_hash(const void *data, size_t len)
{
    const char *at = data;
    uint64_t hash = len, word;

    for (; len >= sizeof(word); len -= sizeof(word), at += sizeof(word)) {
        memcpy(&word, at, sizeof(word));
        hash = mix(hash, word);
    }
    word = 0;
    if (len > 0)
        memcpy(&word, at, len);
    return mix(hash, word);
}

struct consul_snapshot *snapshot_new(void)
{
    struct consul_snapshot *snapshot = calloc(1, sizeof(*snapshot));

    if (snapshot) {
        snapshot->refs = 1;
        snapshot->seen_ns = realtime_ns();
    }
    return snapshot;
}

static bool is_array_of(const json_t *json, json_type type)
{
    for (size_t i = 0; i < json_array_size(json); i++)
        if (json_typeof(json_array_get(json, i)) != type)
            return false;
    return json_is_array(json);
}

/* In all of Consul's answers Node is a name or an object. */
static bool names_nodes(const json_t *objects)
{
    for (size_t i = 0; i < json_array_size(objects); i++) {
        const json_t *node = json_object_get(json_array_get(objects, i), "Node");

        if (node && !json_is_string(node) && !json_is_object(node))
            return false;
    }
    return true;
}

static bool has_shape(const json_t *json, unsigned flags)
{
    if (flags & CONSUL_OBJECT)
        return json_is_object(json) || json_is_null(json);
    if (flags & CONSUL_OBJECTS)
        return is_array_of(json, JSON_OBJECT) && names_nodes(json);
    if (flags & CONSUL_STRINGS)
        return is_array_of(json, JSON_STRING);
    return true;
}

/* Network thread, no lock. `old` lends its unchanged entries. */
/*
 * jansson's integers are int64, and a larger literal fails the whole document: serial numbers of certificates are
 * uint64. Such a literal becomes a string of the same digits.
 */
static int quote_large_numbers(const char *body, size_t len, struct consul_buf *buf)
{
    bool in_string = false;
    size_t from = 0, i = 0, n;
    int r = 0;

    while (r == 0 && i < len) {
        if (in_string || body[i] < '0' || body[i] > '9') {
            if (in_string && body[i] == '\\')
                i++;
            else if (body[i] == '"')
                in_string = !in_string;
            i++;
            continue;
        }
        n = strspn(body + i, "0123456789+-.eE");
        if (strspn(body + i, "0123456789") == n && n >= 19) { /* digits only: an integer */
            r = consul_buf_append(buf, body + from, i - from);
            if (r == 0)
                r = consul_buf_printf(buf, "\"%.*s\"", (int)n, body + i);
            from = i + n;
        }
        i += n;
    }
    return r < 0 || from >= len ? r : consul_buf_append(buf, body + from, len - from);
}

static json_t *parse(const char *body, size_t len)
{
    json_error_t error;
    json_t *json = json_loadb(body, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    struct consul_buf buf;

    if (json || json_error_code(&error) != json_error_numeric_overflow)
        return json;
    consul_buf_init(&buf, len * 2 + 64);
    if (quote_large_numbers(body, len, &buf) == 0)
        json = json_loadb(buf.data, buf.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    consul_buf_free(&buf);
    return json;
}

int snapshot_decode(enum consul_format format, unsigned flags, const struct http_request *request,
                    const struct consul_snapshot *old, struct consul_snapshot **ret_snapshot)
{
    const char *body = request->answer.len > 0 ? request->answer.data : "";
    struct consul_snapshot *snapshot = snapshot_new();
    int r = 0;

    if (!snapshot)
        return -ENOMEM;
    snapshot->index = request->index;
    snapshot->filtered = request->filtered;
    snapshot->len = request->answer.len;
    snapshot->hash = snapshot_hash(body, request->answer.len) ^ (uint64_t)request->status;
    switch (format) {
    case CONSUL_JSON:
        snapshot->json = parse(body, request->answer.len);
        if (!snapshot->json || !has_shape(snapshot->json, flags))
            r = -EIO;
        break;
    case CONSUL_KV:
        if (request->status != 404) /* 404: nothing there, which is an answer */
            r = kv_list_parse(body, request->answer.len, old ? &old->kv : NULL, &snapshot->kv);
        break;
    case CONSUL_TEXT:
        snapshot->text = strndup(body, request->answer.len);
        if (!snapshot->text)
            r = -ENOMEM;
        break;
    }
    if (r < 0) {
        consul_snapshot_unref(snapshot);
        return r;
    }
    *ret_snapshot = snapshot;
    return 0;
}

/* Changes a snapshot that nobody else sees yet. */
int snapshot_patch(struct consul_snapshot *snapshot, const char *key, struct consul_kv_entry *entry)
{
    struct consul_kv_list list;
    int r = kv_list_patch(&snapshot->kv, key, entry, &list);

    if (r < 0)
        return r;
    kv_list_clear(&snapshot->kv);
    snapshot->kv = list;
    snapshot->hash = ~snapshot->hash + (entry ? entry->modify_index : 1); /* the next answer will differ */
    return 0;
}
