#include "kv.h"

#include "base64.h"
#include "consul.h"
#include "snapshot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- entries --------------------------------------------------------------------------------------------------- */

/* Without a value yet: end_value() says how much of the room for it was used. */
static struct consul_kv_entry *entry_alloc(const char *key, size_t key_len, size_t value_len, const char *session)
{
    struct consul_kv_entry *entry;

    if (key_len > UINT32_MAX || value_len > UINT32_MAX)
        return NULL;
    entry = malloc(offsetof(struct consul_kv_entry, data) + key_len + value_len + 2 +
                   (session && *session ? strlen(session) + 1 : 0));
    if (!entry)
        return NULL;
    memset(entry, 0, sizeof(*entry));
    entry->refs = 1;
    entry->key_len = (uint32_t)key_len;
    memcpy(entry->data, key, key_len);
    entry->data[key_len] = '\0';
    return entry;
}

static void end_value(struct consul_kv_entry *entry, size_t value_len, const char *session)
{
    char *end = entry->data + entry->key_len + 1 + value_len;

    entry->value_len = (uint32_t)value_len;
    *end = '\0';
    entry->has_session = session && *session;
    if (entry->has_session)
        strcpy(end + 1, session);
    entry->seen_ns = realtime_ns();
}

struct consul_kv_entry *kv_entry_new(const char *key, size_t key_len, const void *value, size_t value_len,
                                     const char *session)
{
    struct consul_kv_entry *entry = entry_alloc(key, key_len, value_len, session);

    if (!entry)
        return NULL;
    if (value_len > 0)
        memcpy(entry->data + key_len + 1, value, value_len);
    end_value(entry, value_len, session);
    return entry;
}

struct consul_kv_entry *consul_kv_entry_new(const char *key, size_t key_len, const void *value, size_t value_len)
{
    return kv_entry_new(key, key_len, value, value_len, NULL);
}

struct consul_kv_entry *consul_kv_entry_ref(struct consul_kv_entry *entry)
{
    __atomic_fetch_add(&entry->refs, 1, __ATOMIC_RELAXED);
    return entry;
}

void consul_kv_entry_unref(struct consul_kv_entry *entry)
{
    if (entry && __atomic_sub_fetch(&entry->refs, 1, __ATOMIC_ACQ_REL) == 0)
        free(entry);
}

/*
 * Flags is a uint64, but jansson's integers are int64 and a larger literal fails the whole document. So a number from
 * 2^63 on is rewritten to the negative number with the same bits. `"Flags":` with both quotes bare cannot stand inside
 * a JSON string.
 */
static int rewrite_large_flags(const char *body, struct consul_buf *buf)
{
    static const char name[] = "\"Flags\":";
    const char *found;
    int r = 0;

    while (r == 0 && (found = strstr(body, name))) {
        char *end;
        uint64_t flags;

        found += sizeof(name) - 1;
        found += strspn(found, " "); /* an agent in development mode indents */
        if (*found < '0' || *found > '9')
            return -EINVAL;
        errno = 0;
        flags = strtoull(found, &end, 10);
        if (errno != 0)
            return -EINVAL;
        r = consul_buf_append(buf, body, (size_t)(found - body));
        if (r == 0)
            r = consul_buf_printf(buf, "%" PRId64, (int64_t)flags);
        body = end;
    }
    return r < 0 ? r : consul_buf_puts(buf, body);
}

json_t *kv_json_parse(const char *body, size_t len)
{
    json_t *json = json_loadb(body, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    struct consul_buf buf;

    if (json || !strstr(body, "\"Flags\":"))
        return json;
    consul_buf_init(&buf, len * 2 + 64);
    if (rewrite_large_flags(body, &buf) == 0)
        json = json_loadb(buf.data, buf.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    consul_buf_free(&buf);
    return json;
}

/*
 * Values are most of an answer, and jansson takes each of their bytes by itself, to look for what is escaped. So those
 * of any length are cut out before it sees them, and a number, counted from 0, stands for each: it takes a third of the
 * time. `"Value":"` with its quotes bare cannot stand inside a JSON string, and what it begins ends at the next quote.
 */
#define CUT_MIN 32 /* what stands for one is shorter in any case */

struct values {
    struct value {
        const char *text; /* base64; the answer's */
        size_t len;
    } * at;
    size_t n, cap;
    size_t used; /* by entries, in order */
};

static int add_value(struct values *values, const char *text, size_t len)
{
    if (values->n == values->cap) {
        size_t cap = values->cap ? values->cap * 2 : 64;
        struct value *at = realloc(values->at, cap * sizeof(*at));

        if (!at)
            return -ENOMEM;
        values->at = at;
        values->cap = cap;
    }
    values->at[values->n++] = (struct value){text, len};
    return 0;
}

/* What comes behind the next `"Value":`, or NULL. */
static const char *find_value(const char *text, const char *end)
{
    static const char name[] = "Value\":";
    const char *begin = text;

    while ((text = memchr(text, 'V', (size_t)(end - text)))) {
        if (text > begin && text[-1] == '"' && strncmp(text, name, sizeof(name) - 1) == 0)
            return text + sizeof(name) - 1;
        text++;
    }
    return NULL;
}

/* `out` has room for `len` bytes. */
static int cut_values(const char *body, size_t len, struct values *values, char *out, size_t *ret_len)
{
    const char *end = body + len, *text;
    char *to = out;

    while ((text = find_value(body, end))) {
        const char *quote;

        text += strspn(text, " "); /* an agent in development mode indents */
        quote = *text == '"' ? memchr(text + 1, '"', (size_t)(end - text - 1)) : NULL;
        if (quote && quote - text > CUT_MIN && !memchr(text, '\\', (size_t)(quote - text))) {
            if (add_value(values, text + 1, (size_t)(quote - text - 1)) < 0)
                return -ENOMEM;
            to = mempcpy(to, body, (size_t)(text - body));
            to += sprintf(to, "%zu", values->n - 1);
            text = quote + 1;
        } else {
            to = mempcpy(to, body, (size_t)(text - body));
        }
        body = text;
    }
    to = mempcpy(to, body, (size_t)(end - body));
    *ret_len = (size_t)(to - out);
    return 0;
}

/* The text of an entry's value; 0 bytes: it has none. */
static int value_of(const json_t *json, struct values *values, struct value *ret_value)
{
    *ret_value = (struct value){0};
    if (json_is_string(json))
        *ret_value = (struct value){json_string_value(json), json_string_length(json)};
    else if (json_is_integer(json) && values && values->used < values->n &&
             json_integer_value(json) == (json_int_t)values->used)
        *ret_value = values->at[values->used++];
    else if (json && !json_is_null(json))
        return -EIO;
    return 0;
}

static uint64_t get_u64(const json_t *object, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(object, name));
}

/* `values` are those that were cut out of what the object is from; NULL: none were. */
static int entry_decode(const json_t *object, struct values *values, struct consul_kv_entry **ret_entry)
{
    const json_t *key = json_object_get(object, "Key");
    const char *session = json_string_value(json_object_get(object, "Session"));
    struct consul_kv_entry *entry;
    struct value value;
    size_t value_len = 0;

    if (session && strlen(session) >= KV_SESSION_SIZE)
        session = NULL; /* no server's */
    if (!json_is_string(key) || value_of(json_object_get(object, "Value"), values, &value) < 0)
        return -EIO;
    entry = entry_alloc(json_string_value(key), json_string_length(key), value.len / 4 * 3, session);
    if (!entry)
        return -ENOMEM;
    if (value.len > 0 && base64_decode(value.text, value.len, entry->data + entry->key_len + 1, &value_len) < 0) {
        free(entry);
        return -EIO;
    }
    end_value(entry, value_len, session);
    entry->create_index = get_u64(object, "CreateIndex");
    entry->modify_index = get_u64(object, "ModifyIndex");
    entry->lock_index = get_u64(object, "LockIndex");
    entry->flags = get_u64(object, "Flags");
    *ret_entry = entry;
    return 0;
}

int kv_entry_decode(const json_t *object, struct consul_kv_entry **ret_entry)
{
    return entry_decode(object, NULL, ret_entry);
}

/* ---- lists ----------------------------------------------------------------------------------------------------- */

static int key_compare(const char *a, size_t a_len, const char *b, size_t b_len)
{
    int c = memcmp(a, b, a_len < b_len ? a_len : b_len);

    return c ? c : (a_len > b_len) - (a_len < b_len);
}

static int entry_compare(const void *a, const void *b)
{
    const struct consul_kv_entry *x = *(struct consul_kv_entry *const *)a, *y = *(struct consul_kv_entry *const *)b;

    return key_compare(x->data, x->key_len, y->data, y->key_len);
}

size_t consul_kv_lower_bound(const struct consul_kv_list *list, const char *key, size_t key_len)
{
    size_t low = 0, high = list->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct consul_kv_entry *entry = list->entries[middle];

        if (key_compare(entry->data, entry->key_len, key, key_len) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct consul_kv_entry *consul_kv_find(const struct consul_kv_list *list, const char *key, size_t key_len)
{
    size_t i = consul_kv_lower_bound(list, key, key_len);
    struct consul_kv_entry *entry = i < list->n ? list->entries[i] : NULL;

    return entry && entry->key_len == key_len && memcmp(entry->data, key, key_len) == 0 ? entry : NULL;
}

void kv_list_clear(struct consul_kv_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        consul_kv_entry_unref(list->entries[i]);
    free(list->entries);
    *list = (struct consul_kv_list){0};
}

bool kv_list_same(const struct consul_kv_list *a, const struct consul_kv_list *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->entries, b->entries, a->n * sizeof(*a->entries)) == 0);
}

/* As JSON; the names of its fields are most of a small one. */
static size_t entry_size(const struct consul_kv_entry *entry)
{
    return 150 + entry->key_len + entry->value_len / 3 * 4;
}

size_t kv_list_news(const struct consul_kv_list *before, uint64_t index, const struct consul_kv_list *list)
{
    size_t bytes = 0, kept = 0;

    for (size_t i = 0; i < list->n; i++) {
        const struct consul_kv_entry *entry = list->entries[i];

        if (entry->modify_index > index)
            bytes += entry_size(entry);
        kept += entry->create_index <= index;
    }
    /* What is gone has no size any more. */
    return bytes + (before->n > kept ? (before->n - kept) * 150 : 0);
}

static bool entry_unchanged(const struct consul_kv_entry *old, const struct consul_kv_entry *new)
{
    return old->modify_index == new->modify_index && old->create_index == new->create_index &&
           old->lock_index == new->lock_index && old->flags == new->flags &&
           old->value_len == new->value_len &&strcmp(consul_kv_session(old), consul_kv_session(new)) == 0 &&
           memcmp(old->data, new->data, old->key_len + old->value_len + 1) == 0;
}

/* The entry of `old` stands for one that is the same. Both lists are sorted: *at is where the walk over `old` is. */
static void share_unchanged(const struct consul_kv_list *old, size_t *at, struct consul_kv_entry **entry)
{
    struct consul_kv_entry *new = *entry;
    int c = -1;

    while (*at < old->n &&
           (c = key_compare(old->entries[*at]->data, old->entries[*at]->key_len, new->data, new->key_len)) < 0)
        ++*at;
    if (*at < old->n && c == 0 && entry_unchanged(old->entries[*at], new)) {
        *entry = consul_kv_entry_ref(old->entries[*at]);
        consul_kv_entry_unref(new);
    }
}

static int list_append(struct consul_kv_list *list, size_t *cap, struct consul_kv_entry *entry)
{
    if (list->n == *cap) {
        size_t more = *cap ? *cap * 2 : 16;
        struct consul_kv_entry **entries = realloc(list->entries, more * sizeof(*entries));

        if (!entries)
            return -ENOMEM;
        list->entries = entries;
        *cap = more;
    }
    list->entries[list->n++] = entry;
    return 0;
}

static void sort_list(struct consul_kv_list *list, const struct consul_kv_list *old)
{
    size_t at = 0;

    qsort(list->entries, list->n, sizeof(*list->entries), entry_compare);
    for (size_t i = 0; old && i < list->n; i++)
        share_unchanged(old, &at, &list->entries[i]);
}

static const char *skip_blanks(const char *text)
{
    while (*text == ' ' || *text == '\t' || *text == '\r' || *text == '\n')
        text++;
    return text;
}

/*
 * One object of the array after the other, so that the parsed form of all of them never exists at the same time: for a
 * hundred thousand keys that would be a hundred megabytes. -EIO also for Flags beyond what jansson can read.
 */
static int parse_entries(const char *text, size_t len, struct values *values, const struct consul_kv_list *old,
                         struct consul_kv_list *list)
{
    const char *at = skip_blanks(text), *end = text + len;
    size_t cap = 0, at_old = 0;
    bool sorted = true, more;

    if (*at++ != '[')
        return -EIO;
    at = skip_blanks(at);
    more = *at != ']';
    while (more) {
        struct consul_kv_entry *entry;
        json_error_t error;
        json_t *object = json_loadb(at, (size_t)(end - at), JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &error);
        int r = object ? entry_decode(object, values, &entry) : -EIO;

        json_decref(object);
        if (r < 0)
            return r;
        if (list->n > 0 && entry_compare(&list->entries[list->n - 1], &entry) > 0)
            sorted = false;
        if (old && sorted)
            share_unchanged(old, &at_old, &entry);
        r = list_append(list, &cap, entry);
        if (r < 0) {
            consul_kv_entry_unref(entry);
            return r;
        }
        at = skip_blanks(at + error.position);
        more = *at == ',';
        if (more)
            at = skip_blanks(at + 1);
    }
    if (*at != ']' || skip_blanks(at + 1) != end || values->used < values->n) /* a value stood elsewhere */
        return -EIO;
    if (!sorted)
        sort_list(list, old);
    return 0;
}

int kv_list_parse(const char *body, size_t len, const struct consul_kv_list *old, struct consul_kv_list *ret_list)
{
    struct consul_kv_list list = {0};
    struct values values = {0};
    struct consul_buf buf;
    char *rest = malloc(len + 1);
    size_t rest_len;
    int r = rest ? cut_values(body, len, &values, rest, &rest_len) : -ENOMEM;

    if (r == 0) {
        rest[rest_len] = '\0';
        r = parse_entries(rest, rest_len, &values, old, &list);
    }
    consul_buf_init(&buf, len * 2 + 64);
    if (r == -EIO && strstr(rest, "\"Flags\":") && rewrite_large_flags(rest, &buf) == 0) {
        kv_list_clear(&list);
        values.used = 0;
        r = parse_entries(buf.data, buf.len, &values, old, &list);
    }
    consul_buf_free(&buf);
    free(values.at);
    free(rest);
    if (r < 0)
        kv_list_clear(&list);
    else
        *ret_list = list;
    return r;
}

int kv_list_patch(const struct consul_kv_list *list, const char *key, struct consul_kv_entry *entry,
                  struct consul_kv_list *ret_list)
{
    size_t key_len = strlen(key), at = consul_kv_lower_bound(list, key, key_len), n = 0;
    bool present = consul_kv_find(list, key, key_len) != NULL;
    struct consul_kv_entry **entries = malloc((list->n + 1) * sizeof(*entries));

    if (!entries)
        return -ENOMEM;
    for (size_t i = 0; i < at; i++)
        entries[n++] = consul_kv_entry_ref(list->entries[i]);
    if (entry)
        entries[n++] = consul_kv_entry_ref(entry);
    for (size_t i = at + present; i < list->n; i++)
        entries[n++] = consul_kv_entry_ref(list->entries[i]);
    *ret_list = (struct consul_kv_list){.n = n, .entries = entries};
    return 0;
}

int kv_list_part(const struct consul_kv_list *list, const char *prefix, struct consul_kv_list *ret_list)
{
    size_t len = strlen(prefix), from = consul_kv_lower_bound(list, prefix, len), to = from;

    while (to < list->n && list->entries[to]->key_len >= len &&
           memcmp(consul_kv_key(list->entries[to]), prefix, len) == 0)
        to++;
    *ret_list = (struct consul_kv_list){.entries = malloc((to - from + 1) * sizeof(*ret_list->entries))};
    if (!ret_list->entries)
        return -ENOMEM;
    while (from < to)
        ret_list->entries[ret_list->n++] = consul_kv_entry_ref(list->entries[from++]);
    return 0;
}

/* The text behind it that is a string, the caller's; NULL: there is none that is whole. */
static char *key_at(const char *text, const char *end)
{
    json_t *json =
        json_loadb(text, (size_t)(end - text), JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, NULL);
    char *key = json_is_string(json) ? strdup(json_string_value(json)) : NULL;

    json_decref(json);
    return key;
}

/* Keys come sorted: what the first and the last begin with, those between do. */
char *kv_text_common(const char *text, size_t len)
{
    static const char name[] = "\"Key\":"; /* with its quotes bare it cannot stand inside a JSON string */
    const size_t name_len = sizeof(name) - 1;
    const char *first = memmem(text, len, name, name_len), *end = text + len, *at = end;
    char *common = first ? key_at(first + name_len, end) : NULL, *last = NULL;
    size_t same = 0;

    while (common && !last && at > first) {
        at--;
        if ((size_t)(end - at) > name_len && memcmp(at, name, name_len) == 0)
            last = key_at(at + name_len, end);
    }
    while (last && common[same] && common[same] == last[same])
        same++;
    if (common)
        common[same] = '\0';
    free(last);
    if (same > 0)
        return common;
    free(common);
    return NULL;
}

/* ---- transactions ---------------------------------------------------------------------------------------------- */

/* Decodes one UTF-8 sequence. Returns its length, or 0 where there is none. RFC 3629: no surrogates, no overlongs. */
static size_t utf8_next(const unsigned char *s, uint32_t *ret_code)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = *s < 0x80                 ? 1
               : *s >= 0xc2 && *s < 0xe0 ? 2
               : *s >= 0xe0 && *s < 0xf0 ? 3
               : *s >= 0xf0 && *s < 0xf5 ? 4
                                         : 0;
    uint32_t code;

    if (n == 0)
        return 0;
    code = n == 1 ? *s : *s & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (s[i] & 0x3f);
    }
    if (n > 1 && (code < least[n] || (code >= 0xd800 && code < 0xe000) || code > 0x10ffff))
        return 0;
    *ret_code = code;
    return n;
}

/*
 * Consul refuses a path with an unprintable character (Go's unicode.IsPrint: neither spaces beyond ASCII nor what is
 * not assigned in its version of Unicode). These are what it takes at any version: in each range all is assigned since
 * Unicode 8. The rest may be refused, and goes by transactions, which take all.
 */
static bool is_printable(uint32_t code)
{
    static const struct {
        uint32_t first, last;
    } ranges[] = {
        {0x20, 0x7e},     {0xa1, 0xac},     {0xae, 0x377},    {0x38e, 0x3a1},   {0x3a3, 0x52f},     {0x531, 0x556},
        {0x561, 0x587},   {0x5d0, 0x5ea},   {0x620, 0x64a},   {0x904, 0x939},   {0xe01, 0xe3a},     {0x10d0, 0x10fa},
        {0x1e00, 0x1eff}, {0x2010, 0x2027}, {0x20a0, 0x20be}, {0x2190, 0x22ff}, {0x3001, 0x3020},   {0x3041, 0x3096},
        {0x3099, 0x30ff}, {0x4e00, 0x9fa5}, {0xac00, 0xd7a3}, {0xff01, 0xff5e}, {0x1f300, 0x1f5ff}, {0x1f600, 0x1f64f},
    };

    for (size_t i = 0; i < sizeof(ranges) / sizeof(*ranges); i++)
        if (code >= ranges[i].first && code <= ranges[i].last)
            return true;
    return false;
}

bool consul_kv_key_valid(const char *key, bool *ret_plain)
{
    const unsigned char *s = (const unsigned char *)key;
    size_t component = 0;
    bool plain = *key != '\0' && *key != '/';

    for (const char *p = key; plain; p++) {
        if (*p == '/' || *p == '\0') {
            const char *begin = p - component;

            /* Go's mux cleans these out of the path; the key would be another one. A trailing slash stays. */
            if ((component == 0 && *p == '/') || (component == 1 && begin[0] == '.') ||
                (component == 2 && begin[0] == '.' && begin[1] == '.'))
                plain = false;
            component = 0;
            if (*p == '\0')
                break;
        } else {
            component++;
        }
    }
    while (*s) {
        uint32_t code;
        size_t n = utf8_next(s, &code);

        if (n == 0)
            return false;
        plain &= is_printable(code);
        s += n;
    }
    *ret_plain = plain;
    return true;
}

static int append_json_string(struct consul_buf *buf, const char *text)
{
    int r = consul_buf_append(buf, "\"", 1);

    for (; r == 0 && *text; text++) {
        unsigned char c = (unsigned char)*text;

        if (c < 0x20 || c == '"' || c == '\\')
            r = consul_buf_printf(buf, "\\u%04x", c);
        else
            r = consul_buf_append(buf, text, 1);
    }
    return r < 0 ? r : consul_buf_append(buf, "\"", 1);
}

static int append_value(struct consul_buf *buf, const void *value, size_t len)
{
    char chunk[4096];
    const char *from = value;
    int r = consul_buf_puts(buf, ",\"Value\":\"");

    while (r == 0 && len > 0) {
        size_t part = len < sizeof(chunk) / 4 * 3 ? len : sizeof(chunk) / 4 * 3;

        base64_encode(from, part, chunk);
        r = consul_buf_append(buf, chunk, base64_encoded_len(part));
        from += part;
        len -= part;
    }
    return r < 0 ? r : consul_buf_puts(buf, "\"");
}

static int append_verb(struct consul_buf *buf, const char *verb, const struct consul_kv_op *op, bool set, bool index)
{
    int r = consul_buf_printf(buf, "{\"KV\":{\"Verb\":\"%s\",\"Key\":", verb);

    if (r == 0)
        r = append_json_string(buf, op->key);
    if (r == 0 && set)
        r = append_value(buf, op->value, op->value_len);
    if (r == 0 && set)
        r = consul_buf_printf(buf, ",\"Flags\":%" PRIu64, op->flags);
    if (r == 0 && op->session)
        r = consul_buf_puts(buf, ",\"Session\":");
    if (r == 0 && op->session)
        r = append_json_string(buf, op->session);
    if (r == 0 && index)
        r = consul_buf_printf(buf, ",\"Index\":%" PRIu64, op->index);
    return r < 0 ? r : consul_buf_puts(buf, "}}");
}

static int append_op(struct consul_buf *buf, const struct consul_kv_op *op)
{
    int r;

    switch (op->verb) {
    case CONSUL_KV_SET:
        return append_verb(buf, "set", op, true, false);
    case CONSUL_KV_CAS:
        return append_verb(buf, "cas", op, true, true);
    case CONSUL_KV_DELETE:
        /* The get fails the transaction when there is nothing to delete. */
        r = append_verb(buf, "get", op, false, false);
        if (r == 0)
            r = consul_buf_puts(buf, ",");
        return r < 0 ? r : append_verb(buf, "delete", op, false, false);
    case CONSUL_KV_DELETE_CAS:
        /* delete-cas succeeds when there is nothing to delete (agent/consul/state/kvs.go, kvsDeleteCASTxn). */
        r = append_verb(buf, "check-index", op, false, true);
        if (r == 0)
            r = consul_buf_puts(buf, ",");
        return r < 0 ? r : append_verb(buf, "delete", op, false, false);
    case CONSUL_KV_CHECK_INDEX:
        return append_verb(buf, "check-index", op, false, true);
    case CONSUL_KV_CHECK_SESSION:
        return append_verb(buf, "check-session", op, false, false);
    case CONSUL_KV_CHECK_NOT_EXISTS:
        return append_verb(buf, "check-not-exists", op, false, false);
    case CONSUL_KV_LOCK:
        return append_verb(buf, "lock", op, true, false);
    case CONSUL_KV_UNLOCK:
        return append_verb(buf, "unlock", op, true, false);
    }
    return -EINVAL;
}

unsigned kv_op_count(enum consul_kv_verb verb)
{
    return verb == CONSUL_KV_DELETE || verb == CONSUL_KV_DELETE_CAS ? 2 : 1;
}

int kv_txn_encode(const struct consul_kv_op *ops, size_t n, char **ret_body, size_t *ret_len)
{
    struct consul_buf buf;
    int r;

    consul_buf_init(&buf, (size_t)256 << 20);
    r = consul_buf_puts(&buf, "[");
    for (size_t i = 0; r == 0 && i < n; i++) {
        bool plain;

        if (!consul_kv_key_valid(ops[i].key, &plain))
            r = -EINVAL;
        if (r == 0 && i > 0)
            r = consul_buf_puts(&buf, ",");
        if (r == 0)
            r = append_op(&buf, &ops[i]);
    }
    if (r == 0)
        r = consul_buf_puts(&buf, "]");
    if (r < 0) {
        consul_buf_free(&buf);
        return r;
    }
    *ret_body = consul_buf_take(&buf, ret_len);
    return 0;
}
