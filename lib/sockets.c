#include "sockets.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define AT_ONCE 64 /* what more has happened is there at the next wait */

struct sockets {
    int epoll, wake;
    bool *watched; /* by its number, whether epoll has the socket */
    size_t n;
};

int sockets_new(struct sockets **ret_sockets)
{
    struct sockets *sockets = calloc(1, sizeof(*sockets));
    int r;

    if (!sockets)
        return -ENOMEM;
    sockets->epoll = epoll_create1(EPOLL_CLOEXEC);
    sockets->wake = sockets->epoll < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = sockets->wake < 0 ? -errno : sockets_watch(sockets, sockets->wake, SOCKETS_IN);
    if (r < 0) {
        sockets_free(sockets);
        return r;
    }
    *ret_sockets = sockets;
    return 0;
}

void sockets_free(struct sockets *sockets)
{
    if (!sockets)
        return;
    if (sockets->wake >= 0)
        close(sockets->wake);
    if (sockets->epoll >= 0)
        close(sockets->epoll);
    free(sockets->watched);
    free(sockets);
}

static int make_room(struct sockets *sockets, size_t n)
{
    size_t more = sockets->n ? sockets->n * 2 : 64;
    bool *watched;

    if (n <= sockets->n)
        return 0;
    if (more < n)
        more = n;
    watched = realloc(sockets->watched, more * sizeof(*watched));
    if (!watched)
        return -ENOMEM;
    memset(watched + sockets->n, 0, (more - sockets->n) * sizeof(*watched));
    sockets->watched = watched;
    sockets->n = more;
    return 0;
}

static int forget(struct sockets *sockets, int fd)
{
    if ((size_t)fd >= sockets->n || !sockets->watched[fd])
        return 0;
    sockets->watched[fd] = false;
    if (epoll_ctl(sockets->epoll, EPOLL_CTL_DEL, fd, NULL) == 0 || errno == ENOENT || errno == EBADF)
        return 0;
    return -errno;
}

int sockets_watch(struct sockets *sockets, int fd, unsigned events)
{
    struct epoll_event event = {.data.fd = fd};
    int r;

    if (events == 0)
        return forget(sockets, fd);
    r = make_room(sockets, (size_t)fd + 1);
    if (r < 0)
        return r;
    event.events = (events & SOCKETS_IN ? EPOLLIN : 0u) | (events & SOCKETS_OUT ? EPOLLOUT : 0u);
    /* One that was closed without a word is not there any more, though another has its number. */
    if ((!sockets->watched[fd] || epoll_ctl(sockets->epoll, EPOLL_CTL_MOD, fd, &event) < 0) &&
        epoll_ctl(sockets->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        return -errno;
    sockets->watched[fd] = true;
    return 0;
}

void sockets_wait(struct sockets *sockets, int timeout_ms, void (*ready)(void *arg, int fd, unsigned events), void *arg)
{
    struct epoll_event events[AT_ONCE];
    int n = epoll_wait(sockets->epoll, events, AT_ONCE, timeout_ms);

    for (int i = 0; i < n; i++) {
        unsigned is = events[i].events;
        uint64_t wakes;

        if (events[i].data.fd == sockets->wake) {
            (void)!read(sockets->wake, &wakes, sizeof(wakes));
            continue;
        }
        ready(arg, events[i].data.fd,
              (is & EPOLLIN ? SOCKETS_IN : 0u) | (is & EPOLLOUT ? SOCKETS_OUT : 0u) |
                  (is & (EPOLLERR | EPOLLHUP) ? SOCKETS_ERR : 0u));
    }
}

void sockets_wake(struct sockets *sockets)
{
    const uint64_t one = 1;

    (void)!write(sockets->wake, &one, sizeof(one)); /* EAGAIN: it has been woken more than often enough */
}
