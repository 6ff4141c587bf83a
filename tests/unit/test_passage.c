/* fs/passage: a way into a mount that does not keep it from being unmounted. On a tmpfs of its own; needs root. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "passage.h"

struct fixture {
    char place[64];
    dev_t device; /* of what is mounted there */
    struct passage *passage;
};

/* Is it the tmpfs that the fixture has mounted? */
static bool is_ours(void *arg, int fd)
{
    const struct fixture *f = arg;
    struct stat st;

    return fstat(fd, &st) == 0 && st.st_dev == f->device;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct stat st;

    strcpy(f->place, "/tmp/test_passage.XXXXXX");
    if (!mkdtemp(f->place) || mount("none", f->place, "tmpfs", 0, "size=64k") < 0 || stat(f->place, &st) < 0)
        return -1;
    f->device = st.st_dev;
    *state = f;
    return passage_new(f->place, &f->passage);
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    passage_free(f->passage);
    while (umount2(f->place, MNT_DETACH) == 0)
        ;
    rmdir(f->place);
    free(f);
    return 0;
}

/* How many superblocks of that device there are to be found, by what the kernel says when it is looked for. */
static bool leads_to_it(const struct fixture *f, int fd)
{
    struct stat st;

    return fstatat(fd, "", &st, AT_EMPTY_PATH) == 0 && st.st_dev == f->device;
}

static void test_leads_into_the_mount(void **state)
{
    struct fixture *f = *state;
    int fd = passage_enter(f->passage, is_ours, f), file;

    assert_true(fd >= 0);
    assert_true(leads_to_it(f, fd));
    file = openat(fd, "x", O_CREAT | O_EXCL | O_WRONLY, 0600);
    assert_true(file >= 0);
    close(file);
    passage_leave(f->passage, fd);
}

/* Waits for the descriptor to be closed by the thread that watches. */
static bool is_closed_soon(int fd)
{
    const struct timespec pause = {.tv_nsec = 1000000};

    for (int i = 0; i < 20000; i++) {
        if (fcntl(fd, F_GETFD) < 0)
            return true;
        nanosleep(&pause, NULL);
    }
    return false;
}

static void test_prepared(void **state)
{
    struct fixture *f = *state;
    int fd;

    passage_prepare(f->passage);
    fd = passage_enter(f->passage, is_ours, f);
    assert_true(leads_to_it(f, fd));
    assert_int_equal(umount(f->place), 0);
    passage_leave(f->passage, fd);
    assert_true(is_closed_soon(fd));
    assert_int_equal(passage_enter(f->passage, is_ours, f), -1);
}

/* What was cloned is not ours after all. */
static void test_prepared_for_another(void **state)
{
    struct fixture *f = *state;
    dev_t device = f->device;
    int fd;

    passage_prepare(f->passage);
    f->device = 0;
    assert_int_equal(passage_enter(f->passage, is_ours, f), -1);
    f->device = device;
    fd = passage_enter(f->passage, is_ours, f);
    assert_true(leads_to_it(f, fd));
    passage_leave(f->passage, fd);
    assert_int_equal(umount(f->place), 0);
}

/* Two who are inside go by the same clone, and the next who comes, too. */
static void test_one_clone_for_all(void **state)
{
    struct fixture *f = *state;
    int a = passage_enter(f->passage, is_ours, f), b = passage_enter(f->passage, is_ours, f), c;

    assert_int_equal(a, b);
    passage_leave(f->passage, a);
    passage_leave(f->passage, b);
    c = passage_enter(f->passage, is_ours, f);
    assert_int_equal(a, c);
    passage_leave(f->passage, c);
}

static void test_unmounting_is_not_busy(void **state)
{
    struct fixture *f = *state;
    int fd = passage_enter(f->passage, is_ours, f);

    assert_true(fd >= 0);
    assert_int_equal(umount(f->place), 0);
    assert_true(leads_to_it(f, fd)); /* who is inside stays there */
    passage_leave(f->passage, fd);
    assert_true(is_closed_soon(fd)); /* and the last one takes the clone along */
    assert_int_equal(passage_enter(f->passage, is_ours, f), -1);
}

static void test_clone_goes_with_the_mount(void **state)
{
    struct fixture *f = *state;
    int fd = passage_enter(f->passage, is_ours, f);

    passage_leave(f->passage, fd);
    assert_true(fcntl(fd, F_GETFD) >= 0); /* it is kept for the next */
    assert_int_equal(umount(f->place), 0);
    assert_true(is_closed_soon(fd));
}

static void test_what_is_mounted_over_it_is_left_alone(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(mount("none", f->place, "tmpfs", 0, "size=64k"), 0);
    assert_int_equal(passage_enter(f->passage, is_ours, f), -1);
    assert_int_equal(umount(f->place), 0);
    assert_true(passage_enter(f->passage, is_ours, f) >= 0);
}

/* An ordinary user's: this thread alone gives up what allows cloning a mount. */
static void *enter_without_privilege(void *arg)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    struct fixture *f = arg;
    int fd;

    if (syscall(SYS_capget, &header, data) < 0)
        return "capget";
    data[0].effective &= ~(1u << CAP_SYS_ADMIN);
    data[0].permitted &= ~(1u << CAP_SYS_ADMIN);
    if (syscall(SYS_capset, &header, data) < 0)
        return "capset";
    fd = passage_enter(f->passage, is_ours, f);
    if (fd < 0 || !leads_to_it(f, fd))
        return "it does not lead to the mount";
    passage_leave(f->passage, fd);
    return fcntl(fd, F_GETFD) < 0 ? NULL : "the mount stays busy";
}

static void test_without_privilege_by_the_path(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;
    void *failure;

    assert_int_equal(pthread_create(&thread, NULL, enter_without_privilege, f), 0);
    assert_int_equal(pthread_join(thread, &failure), 0);
    assert_null(failure);
    assert_int_equal(umount(f->place), 0);
}

static void *enter_and_leave(void *arg)
{
    struct fixture *f = arg;

    for (int i = 0; i < 200; i++) {
        int fd = passage_enter(f->passage, is_ours, f);

        if (fd >= 0)
            passage_leave(f->passage, fd);
    }
    return NULL;
}

static void test_many_at_once_while_it_comes_and_goes(void **state)
{
    struct fixture *f = *state;
    pthread_t threads[8];
    struct stat st;

    for (size_t i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, enter_and_leave, f), 0);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(umount2(f->place, MNT_DETACH), 0);
        assert_int_equal(mount("none", f->place, "tmpfs", 0, "size=64k"), 0);
        assert_int_equal(stat(f->place, &st), 0); /* another device: not ours */
    }
    for (size_t i = 0; i < 8; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_leads_into_the_mount),
        CASE(test_prepared),
        CASE(test_prepared_for_another),
        CASE(test_one_clone_for_all),
        CASE(test_unmounting_is_not_busy),
        CASE(test_clone_goes_with_the_mount),
        CASE(test_what_is_mounted_over_it_is_left_alone),
        CASE(test_without_privilege_by_the_path),
        CASE(test_many_at_once_while_it_comes_and_goes),
    };

    return cmocka_run_group_tests_name("passage", tests, NULL, NULL);
}
