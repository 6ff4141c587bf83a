/* fs/handle: the value that a descriptor gathers, and who stores it when. The operations are real, without requests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "content.h"
#include "handle.h"
#include "tree.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MAX 100000

static const struct kind file_kind = {.mode = S_IFREG | 0644};

static int setup(void **state)
{
    struct fs *fs = calloc(1, sizeof(*fs));

    if (inode_table_init(&fs->inodes) < 0)
        return -1;
    gate_init(&fs->gate);
    pthread_mutex_init(&fs->open_lock, NULL);
    fs->top = inode_new_static(&fs->inodes, &file_kind, NULL, "");
    *state = fs;
    return 0;
}

/* No handle, operation or reference is left behind. */
static int teardown(void **state)
{
    struct fs *fs = *state;
    int r = !fs->handles && fs->ops == 0 && fs->top->refs == 1 ? 0 : -1;

    inode_unref(&fs->inodes, fs->top);
    inode_table_destroy(&fs->inodes);
    gate_destroy(&fs->gate);
    pthread_mutex_destroy(&fs->open_lock);
    free(fs);
    return r;
}

/* As open() makes it; value NULL: there is none yet. */
static struct handle *open_value(struct fs *fs, unsigned flags, const char *value)
{
    struct content *content = value ? content_take(strdup(value), strlen(value), 0) : NULL;
    struct handle *handle = handle_new(fs, fs->top, flags, 1, content);

    assert_non_null(handle);
    content_unref(content);
    return handle;
}

static void expect_seen(struct handle *handle, const char *value, size_t len)
{
    char *data = NULL;
    size_t got = 999;

    assert_int_equal(handle_read(handle, 0, MAX, &data, &got), 0);
    assert_int_equal(got, len);
    if (len > 0)
        assert_memory_equal(data, value, len);
    free(data);
    assert_int_equal(handle_len(handle), len);
}

/* What is to be stored now. */
static void expect_stored(struct handle *handle, const char *value, size_t len)
{
    char *data = NULL;
    size_t got = 999;

    assert_int_equal(handle_begin_store(handle, NULL, &data, &got), 1);
    assert_int_equal(got, len);
    if (len > 0)
        assert_memory_equal(data, value, len);
    free(data);
}

/* ... and how it ends: there is what was stored. */
static void store(struct handle *handle, const char *value, size_t len, const char *whole)
{
    struct content *content = content_take(strdup(whole), strlen(whole), 0);

    expect_stored(handle, value, len);
    handle_end_store(handle, 0, content);
    content_unref(content);
}

static void expect_nothing_to_store(struct handle *handle)
{
    char *data = NULL;
    size_t len = 999;

    assert_int_equal(handle_begin_store(handle, NULL, &data, &len), 0);
    assert_null(data);
    assert_int_equal(len, 999);
}

static int write_text(struct handle *handle, const char *text, uint64_t offset)
{
    return handle_write(handle, text, strlen(text), offset, MAX);
}

/* ---- the value -------------------------------------------------------------------------------------------------- */

static void test_write(void **state)
{
    static const struct {
        const char *old;
        uint64_t offset;
        const char *text, *value;
        size_t len;
    } cases[] = {
        {NULL, 0, "abc", "abc", 3},     {"", 0, "abc", "abc", 3},          {"old", 0, "n", "nld", 3},
        {"old", 1, "ew", "oew", 3},     {"old", 2, "der", "older", 5},     {"old", 3, "er", "older", 5},
        {"old", 5, "x", "old\0\0x", 6}, /* the gap is zeros */
        {NULL, 4, "x", "\0\0\0\0x", 5}, {"old", 0, "longer", "longer", 6}, {"old", 1, "", "old", 3},
    };
    struct fs *fs = *state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct handle *handle = open_value(fs, O_RDWR, cases[i].old);

        assert_int_equal(write_text(handle, cases[i].text, cases[i].offset), 0);
        expect_seen(handle, cases[i].value, cases[i].len);
        expect_stored(handle, cases[i].value, cases[i].len);
        handle_end_store(handle, 0, NULL);
        expect_nothing_to_store(handle);
        handle_unref(handle);
    }
}

static void test_in_pieces(void **state)
{
    struct handle *handle = open_value(*state, O_WRONLY, "old value");
    char *expected = malloc(MAX);

    handle->replaces = true;
    for (size_t i = 0; i < MAX; i++)
        expected[i] = (char)(i * 31 >> 3);
    for (size_t at = 0; at < MAX; at += 4096) {
        size_t n = MAX - at < 4096 ? MAX - at : 4096;

        assert_int_equal(handle_write(handle, expected + at, n, at, MAX), 0);
    }
    expect_seen(handle, expected, MAX);
    expect_stored(handle, expected, MAX);
    handle_end_store(handle, 0, NULL);
    handle_unref(handle);
    free(expected);
}

static void test_truncate(void **state)
{
    static const struct {
        const char *old;
        uint64_t len;
        const char *value;
    } cases[] = {
        {"value", 0, ""},    {"value", 3, "val"}, {"value", 5, "value"}, {"value", 8, "value\0\0\0"},
        {NULL, 3, "\0\0\0"}, {NULL, 0, ""},       {"", 2, "\0\0"},
    };
    struct fs *fs = *state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct handle *handle = open_value(fs, O_RDWR, cases[i].old);

        assert_int_equal(handle_truncate(handle, cases[i].len, MAX), 0);
        expect_seen(handle, cases[i].value, (size_t)cases[i].len);
        expect_stored(handle, cases[i].value, (size_t)cases[i].len);
        handle_end_store(handle, 0, NULL);
        handle_unref(handle);
    }
}

/* What was cut off does not come back. */
static void test_shorter_then_longer(void **state)
{
    struct handle *handle = open_value(*state, O_RDWR, "secret");

    assert_int_equal(handle_truncate(handle, 2, MAX), 0);
    assert_int_equal(handle_truncate(handle, 4, MAX), 0);
    assert_int_equal(write_text(handle, "x", 5), 0);
    expect_seen(handle, "se\0\0\0x", 6);
    handle_unref(handle);
}

/* O_TRUNC, or created: the old value does not matter. */
static void test_replaces(void **state)
{
    struct handle *handle = open_value(*state, O_RDWR | O_TRUNC, "old value");

    handle->replaces = true;
    handle->dirty = true;
    expect_seen(handle, "", 0);
    assert_int_equal(write_text(handle, "new", 0), 0);
    expect_seen(handle, "new", 3);
    store(handle, "new", 3, "new");
    expect_seen(handle, "new", 3);
    handle_unref(handle);

    /* Nothing written: an empty value is to be stored. */
    handle = open_value(*state, O_WRONLY | O_TRUNC, "old value");
    handle->replaces = true;
    handle->dirty = true;
    store(handle, "", 0, "");
    expect_nothing_to_store(handle);
    handle_unref(handle);
}

static void test_limits(void **state)
{
    static const struct {
        uint64_t offset;
        size_t len, max;
        int r;
    } cases[] = {
        {0, 10, 10, 0},
        {0, 11, 10, -EFBIG},
        {5, 5, 10, 0},
        {6, 5, 10, -EFBIG},
        {10, 0, 10, 0},
        {11, 0, 10, -EFBIG},
        {UINT64_MAX, 1, 10, -EFBIG},
        {UINT64_MAX - 4, 10, 10, -EFBIG},
        {1ull << 40, 1, MAX, -EFBIG},
        {0, 1, 0, -EFBIG},
        {INT64_MAX, 10, SIZE_MAX / 4, -EFBIG},
    };
    struct fs *fs = *state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct handle *handle = open_value(fs, O_RDWR, "v");

        assert_int_equal(handle_write(handle, "0123456789ab", cases[i].len, cases[i].offset, cases[i].max), cases[i].r);
        if (cases[i].r < 0) { /* as if it had not been tried */
            expect_seen(handle, "v", 1);
            expect_nothing_to_store(handle);
        }
        handle_unref(handle);
    }
    for (int appends = 0; appends < 2; appends++) {
        struct handle *handle = open_value(fs, O_RDWR | (appends ? O_APPEND : 0), "value");

        assert_int_equal(handle_truncate(handle, 11, 10), -EFBIG);
        assert_int_equal(handle_truncate(handle, UINT64_MAX, 10), -EFBIG);
        expect_nothing_to_store(handle);
        assert_int_equal(handle_write(handle, "01234567890", 11, 0, 10), -EFBIG);
        expect_seen(handle, "value", 5);
        expect_nothing_to_store(handle);
        handle_unref(handle);
    }
}

static void test_read_a_part(void **state)
{
    static const struct {
        uint64_t offset;
        size_t size;
        const char *part;
    } cases[] = {
        {0, 5, "value"}, {0, 2, "va"},        {1, 3, "alu"},          {3, 100, "ue"}, {5, 1, ""},
        {6, 1, ""},      {UINT64_MAX, 9, ""}, {0, SIZE_MAX, "value"}, {2, 0, ""},
    };
    struct fs *fs = *state;

    for (int written = 0; written < 2; written++) {
        struct handle *handle = open_value(fs, O_RDWR, written ? "vxlue" : "value");

        if (written)
            assert_int_equal(write_text(handle, "a", 1), 0);
        for (size_t i = 0; i < COUNT(cases); i++) {
            char *data = NULL;
            size_t len = 999;

            assert_int_equal(handle_read(handle, cases[i].offset, cases[i].size, &data, &len), 0);
            assert_int_equal(len, strlen(cases[i].part));
            if (len > 0)
                assert_memory_equal(data, cases[i].part, len);
            free(data);
        }
        handle_unref(handle);
    }
}

/* ---- appending -------------------------------------------------------------------------------------------------- */

/* Whatever the offset: behind what is there when it is stored. Only the new bytes are handed over, each once. */
static void test_append(void **state)
{
    struct handle *handle = open_value(*state, O_RDWR | O_APPEND, "old");

    assert_int_equal(write_text(handle, "one", 0), 0);
    assert_int_equal(write_text(handle, "two", 77), 0);
    assert_int_equal(handle_len(handle), 9);
    store(handle, "onetwo", 6, "oldonetwo");
    expect_nothing_to_store(handle);
    expect_seen(handle, "oldonetwo", 9);
    assert_int_equal(write_text(handle, "three", 9), 0);
    store(handle, "three", 5, "oldonetwotheirsthree");
    expect_seen(handle, "oldonetwotheirsthree", 20);
    handle_unref(handle);
}

/* What is written while it is being stored is stored next. */
static void test_append_while_storing(void **state)
{
    struct handle *handle = open_value(*state, O_WRONLY | O_APPEND, NULL);

    assert_int_equal(write_text(handle, "one", 0), 0);
    expect_stored(handle, "one", 3);
    assert_int_equal(write_text(handle, "two", 0), 0);
    handle_end_store(handle, 0, NULL);
    store(handle, "two", 3, "onetwo");
    handle_unref(handle);
}

/* With O_TRUNC it is a new value like any other. */
static void test_append_to_nothing(void **state)
{
    struct handle *handle = open_value(*state, O_WRONLY | O_APPEND | O_TRUNC, "old");

    handle->replaces = true;
    assert_false(handle_appends(handle));
    assert_int_equal(write_text(handle, "one", 0), 0);
    assert_int_equal(write_text(handle, "two", 3), 0);
    store(handle, "onetwo", 6, "onetwo");
    assert_true(handle_appends(handle)); /* once it has replaced what was there */
    assert_int_equal(write_text(handle, "three", 6), 0);
    store(handle, "three", 5, "onetwothree");
    handle_unref(handle);
}

static void test_allocate(void **state)
{
    static const struct {
        uint64_t offset, len;
        bool keep_size, zero;
        const char *expected;
        size_t expected_len;
        bool changes;
    } cases[] = {
        {0, 8, false, false, "value\0\0\0", 8, true}, {0, 5, false, false, "value", 5, false},
        {0, 8, true, false, "value", 5, false},       {1, 2, true, true, "v\0\0ue", 5, true},
        {3, 4, true, true, "val\0\0", 5, true},       {3, 4, false, true, "val\0\0\0\0", 7, true},
        {6, 4, true, true, "value", 5, false},
    };
    static const unsigned flags[] = {O_RDWR, O_RDWR | O_APPEND};

    for (size_t i = 0; i < 2 * COUNT(cases); i++) {
        struct handle *handle = open_value(*state, flags[i % 2], "value");
        size_t at = i / 2;

        assert_int_equal(
            handle_allocate(handle, cases[at].offset, cases[at].len, cases[at].keep_size, cases[at].zero, MAX), 0);
        expect_seen(handle, cases[at].expected, cases[at].expected_len);
        assert_int_equal(handle->dirty, cases[at].changes);
        handle_unref(handle);
    }
}

static void test_allocate_too_much(void **state)
{
    struct handle *handle = open_value(*state, O_RDWR, "value");

    assert_int_equal(handle_allocate(handle, 1, MAX, false, false, MAX), -EFBIG);
    assert_int_equal(handle_allocate(handle, 1, MAX, true, false, MAX), -EFBIG);
    assert_int_equal(handle_allocate(handle, 1, MAX, true, true, MAX), 0); /* a hole beyond the end is none */
    expect_seen(handle, "v\0\0\0\0", 5);
    handle_unref(handle);
}

/* What is not stored is read all the same, also behind what is there. */
static void test_reading_what_is_appended(void **state)
{
    struct handle *handle = open_value(*state, O_RDWR | O_APPEND, "value");
    char *data;
    size_t len;

    assert_int_equal(write_text(handle, "-more", 0), 0);
    expect_seen(handle, "value-more", 10);
    assert_int_equal(handle_read(handle, 6, 2, &data, &len), 0);
    assert_int_equal(len, 2);
    assert_memory_equal(data, "mo", 2);
    free(data);
    handle_unref(handle);
}

static void test_what_another_descriptor_stored(void **state)
{
    struct handle *handle = open_value(*state, O_RDWR, "value");
    struct content *content = content_take(strdup("newer"), 5, 0);
    uint64_t before = content_version(handle->content);

    handle_see(handle, before + 1, content);
    expect_seen(handle, "value", 5);
    assert_int_equal(write_text(handle, "V", 0), 0);
    handle_see(handle, before, content); /* it has something of its own */
    expect_seen(handle, "Value", 5);
    store(handle, "Value", 5, "Value");
    handle_see(handle, content_version(handle->content), content);
    expect_seen(handle, "newer", 5);
    content_unref(content);
    handle_unref(handle);
}

static void test_flushed(void **state)
{
    struct handle *handle = open_value(*state, O_RDWR, "value");

    assert_false(handle_is_flushed(handle));
    handle_set_flushed(handle);
    assert_true(handle_is_flushed(handle));
    assert_int_equal(write_text(handle, "V", 0), 0);
    assert_false(handle_is_flushed(handle));
    handle_set_flushed(handle); /* it has not been stored */
    assert_false(handle_is_flushed(handle));
    handle_unref(handle);
}

/* ---- refusals --------------------------------------------------------------------------------------------------- */

static void test_refused_stays_refused(void **state)
{
    struct handle *handle = open_value(*state, O_RDWR, "value");

    assert_int_equal(write_text(handle, "x", 0), 0);
    assert_true(handle_refuse(handle, -EFBIG));
    assert_false(handle_refuse(handle, -EFBIG));
    expect_nothing_to_store(handle); /* not the rest of it behind the writer's back */
    assert_int_equal(write_text(handle, "y", 1), -EFBIG);
    expect_nothing_to_store(handle);

    /* Another value is another matter. */
    assert_int_equal(handle_truncate(handle, MAX + 1, MAX), -EFBIG);
    assert_int_equal(write_text(handle, "y", 1), -EFBIG);
    assert_int_equal(handle_truncate(handle, 0, MAX), 0);
    assert_int_equal(write_text(handle, "y", 0), 0);
    expect_stored(handle, "y", 1);
    handle_end_store(handle, 0, NULL);
    handle_unref(handle);
}

static void test_outcome_of_storing(void **state)
{
    static const struct {
        int err;
        bool sticky;
    } cases[] = {
        {0, false},    {-EACCES, true},     {-EPERM, true},   {-EINVAL, true},        {-EFBIG, true},  {-ESTALE, true},
        {-EIO, false}, {-ETIMEDOUT, false}, {-EAGAIN, false}, {-EHOSTUNREACH, false}, {-EINTR, false}, {-ENOMEM, false},
    };
    struct fs *fs = *state;

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct handle *handle = open_value(fs, O_RDWR, "value");
        struct content *content = content_take(strdup("Xalue"), 5, 0);

        assert_int_equal(write_text(handle, "X", 0), 0);
        expect_stored(handle, "Xalue", 5);
        handle_end_store(handle, cases[i].err, cases[i].err ? NULL : content);
        assert_int_equal(handle->content->data[0], cases[i].err ? 'v' : 'X');
        expect_nothing_to_store(handle); /* close() does not try it again */
        assert_int_equal(write_text(handle, "Y", 1), cases[i].sticky ? cases[i].err : 0);
        if (!cases[i].sticky) {
            expect_stored(handle, "XYlue", 5);
            handle_end_store(handle, 0, NULL);
        }
        content_unref(content);
        handle_unref(handle);
    }
}

/* ---- one at a time ---------------------------------------------------------------------------------------------- */

struct storer {
    struct handle *handle;
    int runs, result;
    char value[32];
    int *order, place;
};

/* As close() does it: stores if it may and there is something, and leaves the outcome to the test. */
static int run_store(struct op *op)
{
    struct storer *storer = op->state;
    char *data;
    size_t len;

    storer->runs++;
    storer->result = handle_begin_store(storer->handle, op, &data, &len);
    if (storer->result == -EINPROGRESS)
        return -EINPROGRESS;
    storer->place = ++*storer->order;
    if (storer->result == 1) {
        memcpy(storer->value, data, len);
        storer->value[len] = '\0';
        free(data);
    }
    return 0;
}

static void start_store(struct fs *fs, struct storer *storer, struct handle *handle, int *order)
{
    struct op *op = op_new(fs, NULL, NULL, NULL, run_store);

    assert_non_null(op);
    *storer = (struct storer){.handle = handle, .result = 99, .order = order};
    op->state = storer;
    op_start(op);
}

static void test_queue(void **state)
{
    struct fs *fs = *state;
    struct handle *handle = open_value(fs, O_RDWR, "value");
    struct storer storers[4];
    int order = 0;

    assert_int_equal(write_text(handle, "1", 0), 0);
    start_store(fs, &storers[0], handle, &order);
    assert_int_equal(storers[0].result, 1);
    assert_string_equal(storers[0].value, "1alue");
    for (int i = 1; i < 4; i++) {
        start_store(fs, &storers[i], handle, &order);
        assert_int_equal(storers[i].result, -EINPROGRESS);
    }
    assert_int_equal(fs->ops, 3);

    /* Nothing was written meanwhile: there is nothing to do for them. */
    handle_end_store(handle, 0, NULL);
    assert_int_equal(fs->ops, 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(storers[i].runs, i ? 2 : 1);
        assert_int_equal(storers[i].result, i ? 0 : 1);
        assert_int_equal(storers[i].place, i + 1);
    }
    handle_unref(handle);
}

/* The first of the queue stores what has come since; the others queue again, in their order. */
static void test_queue_goes_on(void **state)
{
    struct fs *fs = *state;
    struct handle *handle = open_value(fs, O_RDWR, "value");
    struct storer storers[4];
    int order = 0;

    assert_int_equal(write_text(handle, "1", 0), 0);
    for (int i = 0; i < 4; i++)
        start_store(fs, &storers[i], handle, &order);
    assert_int_equal(write_text(handle, "2", 1), 0);
    handle_end_store(handle, -EIO, NULL);
    assert_int_equal(storers[1].result, 1);
    assert_string_equal(storers[1].value, "12lue");
    assert_int_equal(storers[2].result, -EINPROGRESS);
    assert_int_equal(storers[3].result, -EINPROGRESS);
    assert_int_equal(write_text(handle, "3", 2), 0);
    handle_end_store(handle, 0, NULL);
    assert_int_equal(storers[2].result, 1);
    assert_string_equal(storers[2].value, "123ue");
    assert_int_equal(storers[3].result, -EINPROGRESS);
    handle_end_store(handle, 0, NULL);
    assert_int_equal(storers[3].result, 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(storers[i].place, i + 1);
    handle_unref(handle);
}

/* ---- lifetime --------------------------------------------------------------------------------------------------- */

static void test_counted(void **state)
{
    struct fs *fs = *state;
    struct handle *a = open_value(fs, O_RDWR, "a"), *b = open_value(fs, O_RDONLY, "b"),
                  *c = open_value(fs, O_RDWR, NULL);

    assert_true(handle_writes(a));
    assert_false(handle_writes(b));
    assert_int_equal(fs->top->refs, 4);
    assert_ptr_equal(handle_ref(b), b);
    handle_unref(b);
    assert_ptr_equal(fs->handles, c);
    handle_unref(b); /* the middle of the list */
    assert_ptr_equal(c->next, a);
    assert_ptr_equal(a->prev, c);
    handle_unref(c);
    assert_ptr_equal(fs->handles, a);
    handle_unref(a);
    handle_unref(NULL);
    assert_null(fs->handles);
}

static void test_what_the_kernel_did_not_release(void **state)
{
    struct fs *fs = *state;

    for (int i = 0; i < 3; i++) {
        struct handle *handle = open_value(fs, O_RDWR, "value");

        assert_int_equal(write_text(handle, "x", 0), 0);
        handle_ref(handle);
    }
    handle_free_all(fs);
    assert_null(fs->handles);
}

static void *writer(void *arg)
{
    struct handle *handle = arg;

    for (int i = 0; i < 500; i++) {
        char *data = NULL;
        size_t len;

        (void)write_text(handle, "x", 0);
        if (handle_read(handle, 0, 100, &data, &len) == 0)
            free(data);
        (void)handle_len(handle);
        handle_unref(handle_ref(handle));
    }
    handle_unref(handle);
    return NULL;
}

/* Appended bytes are stored once each, whatever the timing. */
static void test_threads(void **state)
{
    struct handle *handle = open_value(*state, O_RDWR | O_APPEND, "");
    pthread_t threads[3];
    size_t stored = 0;

    for (size_t i = 0; i < COUNT(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, writer, handle_ref(handle)), 0);
    for (int i = 0; i < 500; i++) {
        char *data;
        size_t len;

        if (handle_begin_store(handle, NULL, &data, &len) == 1) {
            stored += len;
            free(data);
            handle_end_store(handle, 0, NULL);
        }
    }
    for (size_t i = 0; i < COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    stored += handle_len(handle);
    assert_int_equal(stored, 3 * 500);
    assert_int_equal(handle->refs, 1);
    handle_unref(handle);
}

/* ---- locks ------------------------------------------------------------------------------------------------------ */

static struct content *entry_content(const char *key, uint64_t index, const char *value)
{
    struct consul_kv_entry *entry = consul_kv_entry_new(key, strlen(key), value, strlen(value));
    struct content *content;

    entry->modify_index = index;
    content = content_of_entry(entry);
    consul_kv_entry_unref(entry);
    return content;
}

static void test_refresh(void **state)
{
    struct fs *fs = *state;
    struct content *now = entry_content("a", 2, "new");
    struct handle *handle = open_value(fs, O_RDWR, "old");

    assert_int_equal(write_text(handle, "O", 0), 0);
    store(handle, "Old", 3, "Old");
    handle_refresh(handle, now); /* what an earlier write left is no more than what is stored */
    expect_seen(handle, "new", 3);
    assert_int_equal(write_text(handle, "N", 0), 0);
    handle_refresh(handle, now); /* not what is being written */
    expect_seen(handle, "New", 3);
    expect_stored(handle, "New", 3);
    handle_end_store(handle, 0, NULL);
    handle_unref(handle);
    content_unref(now);
}

static void test_reindex(void **state)
{
    struct fs *fs = *state;
    struct content *before = entry_content("a", 1, "v"), *now = entry_content("a", 2, "v"),
                   *foreign = entry_content("b", 1, "v");
    struct handle *same = handle_new(fs, fs->top, O_RDWR, 1, before),
                  *other = handle_new(fs, fs->top, O_RDWR, 1, foreign);

    assert_int_equal(write_text(same, "w", 0), 0); /* it goes on from the new index */
    handle_reindex(fs, "dc2", 1, now);
    assert_int_equal(content_version(same->content), 1);
    handle_reindex(fs, NULL, 9, now);
    assert_int_equal(content_version(same->content), 1);
    handle_reindex(fs, NULL, 1, now);
    assert_int_equal(content_version(same->content), 2);
    assert_int_equal(content_version(other->content), 1);
    expect_seen(same, "w", 1);
    handle_unref(same);
    handle_unref(other);
    content_unref(before);
    content_unref(now);
    content_unref(foreign);
}

static void test_lose(void **state)
{
    struct fs *fs = *state;
    struct handle *clean = open_value(fs, O_RDWR, "old"), *dirty = open_value(fs, O_RDWR, "old");
    char *data;
    size_t len;

    assert_int_equal(write_text(dirty, "x", 0), 0);
    assert_false(handle_is_lost(clean));
    handle_lose(clean);
    handle_lose(dirty);
    assert_true(handle_is_lost(clean));
    assert_int_equal(handle_read(clean, 0, MAX, &data, &len), -EIO);
    assert_int_equal(write_text(clean, "x", 0), -EIO);
    assert_int_equal(handle_truncate(clean, 0, MAX), -EIO);
    expect_nothing_to_store(clean);
    expect_nothing_to_store(dirty);
    assert_false(handle_lost_data(clean));
    assert_true(handle_lost_data(dirty)); /* told once */
    assert_false(handle_lost_data(dirty));
    handle_unref(clean);
    handle_unref(dirty);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_refresh),
        CASE(test_reindex),
        CASE(test_lose),
        CASE(test_write),
        CASE(test_in_pieces),
        CASE(test_truncate),
        CASE(test_shorter_then_longer),
        CASE(test_replaces),
        CASE(test_limits),
        CASE(test_read_a_part),
        CASE(test_append),
        CASE(test_append_while_storing),
        CASE(test_append_to_nothing),
        CASE(test_allocate),
        CASE(test_allocate_too_much),
        CASE(test_reading_what_is_appended),
        CASE(test_what_another_descriptor_stored),
        CASE(test_flushed),
        CASE(test_refused_stays_refused),
        CASE(test_outcome_of_storing),
        CASE(test_queue),
        CASE(test_queue_goes_on),
        CASE(test_counted),
        CASE(test_what_the_kernel_did_not_release),
        CASE(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
