/* fs/process: what /proc tells of this very process and of a child. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process.h"

static pthread_barrier_t told;

struct file {
    char path[64];
    uint64_t ino;
};

static int setup(void **state)
{
    struct file *file = calloc(1, sizeof(*file));
    struct stat st;
    int fd;

    strcpy(file->path, "/tmp/consulfs-test-XXXXXX");
    fd = mkstemp(file->path);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -1;
    close(fd);
    file->ino = st.st_ino;
    *state = file;
    return 0;
}

static int teardown(void **state)
{
    struct file *file = *state;

    unlink(file->path);
    free(file);
    return 0;
}

/* From 5.14. */
static void need_ino_in_fdinfo(void)
{
    char text[512];
    int fd = open("/proc/self/fdinfo/0", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    close(fd);
    text[n < 0 ? 0 : n] = '\0';
    if (!strstr(text, "ino:")) {
        print_message("skipped: this kernel's fdinfo has no ino\n");
        skip();
    }
}

static void test_flags(void **state)
{
    static const struct {
        int flags;
        bool has;
    } cases[] = {
        {O_RDONLY, false},
        {O_WRONLY, true},
        {O_RDWR, true},
        {O_PATH, false},
        {O_WRONLY | O_APPEND, true},
        {O_RDONLY | O_NONBLOCK, false},
    };
    const struct file *file = *state;

    need_ino_in_fdinfo();
    assert_false(process_has_open(getpid(), file->ino, 0));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int fd = open(file->path, cases[i].flags | O_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(process_has_open(getpid(), file->ino, 0), cases[i].has);
        close(fd);
        assert_false(process_has_open(getpid(), file->ino, 0));
    }
}

/* Attributes' number or node ID: the kernel's version decides which one it shows. */
static void test_either_number(void **state)
{
    const struct file *file = *state;
    int fd = open(file->path, O_WRONLY | O_CLOEXEC);

    need_ino_in_fdinfo();
    assert_true(process_has_open(getpid(), UINT64_MAX, file->ino));
    assert_true(process_has_open(getpid(), file->ino, UINT64_MAX));
    assert_false(process_has_open(getpid(), UINT64_MAX, UINT64_MAX - 1));
    close(fd);
}

/* One of several; a reader on the same file, and a writer on another, don't count together. */
static void test_same_descriptor(void **state)
{
    const struct file *file = *state;
    char other[] = "/tmp/consulfs-test-XXXXXX";
    int writer = mkstemp(other), reader = open(file->path, O_RDONLY | O_CLOEXEC), second;

    need_ino_in_fdinfo();
    assert_true(writer >= 0 && reader >= 0);
    assert_false(process_has_open(getpid(), file->ino, 0));
    second = open(file->path, O_WRONLY | O_CLOEXEC);
    assert_true(process_has_open(getpid(), file->ino, 0));
    close(second);
    assert_false(process_has_open(getpid(), file->ino, 0));
    close(reader);
    close(writer);
    unlink(other);
}

static void test_another_process(void **state)
{
    const struct file *file = *state;
    int ready[2], go[2];
    char byte;
    pid_t pid;

    need_ino_in_fdinfo();
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(go), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int fd = open(file->path, O_WRONLY);

        if (fd < 0 || write(ready[1], "o", 1) != 1 || read(go[0], &byte, 1) != 1)
            _exit(1);
        close(fd);
        if (write(ready[1], "c", 1) != 1 || read(go[0], &byte, 1) != 1)
            _exit(1);
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_true(process_has_open(pid, file->ino, 0));
    assert_false(process_has_open(getpid(), file->ino, 0));
    assert_int_equal(write(go[1], "x", 1), 1);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_false(process_has_open(pid, file->ino, 0));
    assert_int_equal(write(go[1], "x", 1), 1);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_false(process_has_open(pid, file->ino, 0)); /* no such process any more */
    for (int i = 0; i < 2; i++) {
        close(ready[i]);
        close(go[i]);
    }
}

static void test_no_process(void **state)
{
    const struct file *file = *state;
    int fd = open(file->path, O_WRONLY | O_CLOEXEC);

    assert_false(process_has_open(0, file->ino, 0));
    assert_false(process_has_open(-1, file->ino, 0));
    assert_false(process_has_open(INT32_MAX, file->ino, 0));
    close(fd);
}

static void *tell_own(void *arg)
{
    *(pid_t *)arg = gettid();
    pthread_barrier_wait(&told);
    pthread_barrier_wait(&told);
    return NULL;
}

static void test_threads(void **state)
{
    pid_t thread_id = 0, child;
    pthread_t thread;

    (void)state;
    assert_int_equal(pthread_barrier_init(&told, NULL, 2), 0);
    assert_int_equal(pthread_create(&thread, NULL, tell_own, &thread_id), 0);
    pthread_barrier_wait(&told);
    assert_true(process_is_same(getpid(), getpid()));
    assert_true(process_is_same(getpid(), thread_id));
    assert_true(process_is_same(thread_id, getpid()));
    child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    assert_false(process_is_same(getpid(), child));
    assert_false(process_is_same(0, getpid()));
    assert_false(process_is_same(getpid(), -1));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    pthread_barrier_wait(&told);
    pthread_join(thread, NULL);
    pthread_barrier_destroy(&told);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_flags),           CASE(test_either_number), CASE(test_same_descriptor),
        CASE(test_another_process), CASE(test_no_process),    CASE(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
