/* Which sockets are ready, and being woken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sockets.h"

struct seen {
    unsigned n, events;
    int fd;
};

static void see(void *arg, int fd, unsigned events)
{
    struct seen *seen = arg;

    seen->n++;
    seen->fd = fd;
    seen->events = events;
}

/* What is ready at once. */
static struct seen look(struct sockets *sockets)
{
    struct seen seen = {0};

    sockets_wait(sockets, 0, see, &seen);
    return seen;
}

static struct sockets *new_sockets(void)
{
    struct sockets *sockets;

    assert_int_equal(sockets_new(&sockets), 0);
    return sockets;
}

static void tells_what_a_socket_is_ready_for(void **state)
{
    struct sockets *sockets = new_sockets();
    struct seen seen;
    int pair[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(sockets_watch(sockets, pair[0], SOCKETS_IN), 0);
    assert_int_equal(look(sockets).n, 0);
    assert_int_equal(write(pair[1], "x", 1), 1);
    seen = look(sockets);
    assert_int_equal(seen.n, 1);
    assert_int_equal(seen.fd, pair[0]);
    assert_int_equal(seen.events, SOCKETS_IN);
    assert_int_equal(sockets_watch(sockets, pair[0], SOCKETS_IN | SOCKETS_OUT), 0);
    assert_int_equal(look(sockets).events, SOCKETS_IN | SOCKETS_OUT);
    assert_int_equal(sockets_watch(sockets, pair[0], SOCKETS_OUT), 0);
    assert_int_equal(look(sockets).events, SOCKETS_OUT);
    assert_int_equal(sockets_watch(sockets, pair[0], 0), 0);
    assert_int_equal(look(sockets).n, 0);
    assert_int_equal(sockets_watch(sockets, pair[0], 0), 0); /* as curl does with what it never waited for */
    close(pair[0]);
    close(pair[1]);
    sockets_free(sockets);
}

/* curl may close one without a word, and the next one has its number. */
static void a_number_may_come_again(void **state)
{
    struct sockets *sockets = new_sockets();
    int pair[2], other[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, other), 0);
    assert_int_equal(sockets_watch(sockets, pair[0], SOCKETS_IN), 0);
    assert_int_equal(dup2(other[0], pair[0]), pair[0]);
    close(pair[1]);
    assert_int_equal(look(sockets).n, 0);
    assert_int_equal(sockets_watch(sockets, pair[0], SOCKETS_IN), 0);
    assert_int_equal(write(other[1], "x", 1), 1);
    assert_int_equal(look(sockets).fd, pair[0]);
    close(pair[0]);
    close(other[0]);
    assert_int_equal(sockets_watch(sockets, pair[0], 0), 0);
    close(other[1]);
    sockets_free(sockets);
}

static void a_hang_up_is_an_error(void **state)
{
    struct sockets *sockets = new_sockets();
    int pair[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_int_equal(sockets_watch(sockets, pair[0], SOCKETS_OUT), 0);
    close(pair[1]);
    assert_true(look(sockets).events & SOCKETS_ERR);
    close(pair[0]);
    sockets_free(sockets);
}

static void *wake(void *arg)
{
    sockets_wake(arg);
    return NULL;
}

/* However often, before or during the wait: it ends, once, and nobody is told of a socket. */
static void waking_ends_one_wait(void **state)
{
    struct sockets *sockets = new_sockets();
    struct seen seen = {0};
    pthread_t thread;

    (void)state;
    for (int i = 0; i < 3; i++)
        sockets_wake(sockets);
    sockets_wait(sockets, -1, see, &seen);
    assert_int_equal(pthread_create(&thread, NULL, wake, sockets), 0);
    sockets_wait(sockets, -1, see, &seen);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(seen.n, 0);
    sockets_free(sockets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_what_a_socket_is_ready_for),
        cmocka_unit_test(a_number_may_come_again),
        cmocka_unit_test(a_hang_up_is_an_error),
        cmocka_unit_test(waking_ends_one_wait),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
