#include "passage.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct passage {
    char *mountpoint; /* constant */
    pthread_t watcher;
    bool watching;
    int stop_fd; /* readable when it is over */

    pthread_mutex_t lock; /* nothing is called while it is held */
    pthread_cond_t changed;
    /* guarded by lock */
    int clone; /* -1 */
    int old;   /* a clone that was given up while somebody was inside; -1 */
    unsigned inside, inside_old;
    bool unproved; /* the clone was made before anybody could be asked whether it is of our mount */
    bool opening, stopping;
    unsigned major, minor; /* the device number of the mount, while there is a clone */
};

/* proc(5): "36 35 98:0 /root /mount/point …" */
static bool is_mounted(unsigned major, unsigned minor)
{
    FILE *mounts = fopen("/proc/self/mountinfo", "re");
    unsigned id, parent, a, b;
    char *line = NULL;
    size_t size = 0;
    bool found = !mounts; /* then nobody knows */

    while (!found && getline(&line, &size, mounts) > 0)
        found = sscanf(line, "%u %u %u:%u", &id, &parent, &a, &b) == 4 && a == major && b == minor;
    free(line);
    if (mounts)
        fclose(mounts);
    return found;
}

/* passage.lock is held. Who is inside comes out first. */
static void give_up(struct passage *passage)
{
    if (passage->clone < 0)
        return;
    if (passage->inside == 0) {
        close(passage->clone);
    } else {
        passage->old = passage->clone;
        passage->inside_old = passage->inside;
    }
    passage->clone = -1;
    passage->inside = 0;
    passage->unproved = false;
}

/* False when it is over. From its opening on the descriptor tells of every change (mounts_poll() in fs/namespace). */
static bool wait_for_mounts(struct passage *passage, int mounts)
{
    struct pollfd fds[] = {{.fd = mounts, .events = POLLPRI}, {.fd = passage->stop_fd, .events = POLLIN}};

    return poll(fds, 2, -1) >= 0 ? fds[1].revents == 0 : errno == EINTR;
}

static void *watching_thread(void *arg)
{
    struct passage *passage = arg;
    int mounts = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);

    pthread_mutex_lock(&passage->lock);
    while (!passage->stopping) {
        unsigned major = passage->major, minor = passage->minor;
        bool there;

        if (passage->clone < 0) {
            pthread_cond_wait(&passage->changed, &passage->lock);
            continue;
        }
        pthread_mutex_unlock(&passage->lock);
        there = is_mounted(major, minor) && mounts >= 0 && wait_for_mounts(passage, mounts) && is_mounted(major, minor);
        pthread_mutex_lock(&passage->lock);
        if (!there)
            give_up(passage);
    }
    pthread_mutex_unlock(&passage->lock);
    if (mounts >= 0)
        close(mounts);
    return NULL;
}

int passage_new(const char *mountpoint, struct passage **ret_passage)
{
    struct passage *passage = calloc(1, sizeof(*passage));

    if (!passage)
        return -ENOMEM;
    passage->clone = passage->old = -1;
    passage->mountpoint = strdup(mountpoint);
    passage->stop_fd = eventfd(0, EFD_CLOEXEC);
    pthread_mutex_init(&passage->lock, NULL);
    pthread_cond_init(&passage->changed, NULL);
    passage->watching = passage->mountpoint && passage->stop_fd >= 0 &&
                        pthread_create(&passage->watcher, NULL, watching_thread, passage) == 0;
    if (!passage->watching) {
        passage_free(passage);
        return -EAGAIN;
    }
    *ret_passage = passage;
    return 0;
}

void passage_free(struct passage *passage)
{
    uint64_t one = 1;

    if (!passage)
        return;
    if (passage->watching) {
        pthread_mutex_lock(&passage->lock);
        passage->stopping = true;
        pthread_cond_broadcast(&passage->changed);
        pthread_mutex_unlock(&passage->lock);
        if (write(passage->stop_fd, &one, sizeof(one)) == sizeof(one))
            pthread_join(passage->watcher, NULL);
    }
    if (passage->clone >= 0)
        close(passage->clone);
    if (passage->stop_fd >= 0)
        close(passage->stop_fd);
    pthread_cond_destroy(&passage->changed);
    pthread_mutex_destroy(&passage->lock);
    free(passage->mountpoint);
    free(passage);
}

/* Asks nobody who serves the mount. */
static int clone_of(const char *mountpoint, struct statx *stx)
{
    int fd = (int)syscall(SYS_open_tree, AT_FDCWD, mountpoint, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

    if (fd >= 0 && statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, stx) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* passage.lock is held. */
static void take_clone(struct passage *passage, int clone, const struct statx *stx)
{
    passage->clone = clone;
    passage->inside = 0;
    passage->major = stx->stx_dev_major;
    passage->minor = stx->stx_dev_minor;
    pthread_cond_broadcast(&passage->changed);
}

void passage_prepare(struct passage *passage)
{
    struct statx stx;
    int fd = clone_of(passage->mountpoint, &stx);

    if (fd < 0)
        return; /* there is the path */
    pthread_mutex_lock(&passage->lock);
    take_clone(passage, fd, &stx);
    passage->unproved = true;
    pthread_mutex_unlock(&passage->lock);
}

static int open_clone(const struct passage *passage, bool (*is_ours)(void *arg, int fd), void *arg, struct statx *stx)
{
    int fd = clone_of(passage->mountpoint, stx);

    if (fd >= 0 && !is_ours(arg, fd)) {
        close(fd);
        errno = ENOENT; /* a clone can be made, but not of ours: neither does the path lead there */
        return -1;
    }
    return fd;
}

/* The caller is inside. False: it came out again. */
static bool prove(struct passage *passage, int fd, bool (*is_ours)(void *arg, int fd), void *arg)
{
    bool ours = is_ours(arg, fd);

    pthread_mutex_lock(&passage->lock);
    if (passage->clone == fd && ours)
        passage->unproved = false;
    else if (passage->clone == fd)
        give_up(passage);
    pthread_mutex_unlock(&passage->lock);
    if (!ours)
        passage_leave(passage, fd);
    return ours;
}

static int open_path(const struct passage *passage, bool (*is_ours)(void *arg, int fd), void *arg)
{
    int fd = open(passage->mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0 && !is_ours(arg, fd)) {
        close(fd);
        return -1;
    }
    return fd;
}

int passage_enter(struct passage *passage, bool (*is_ours)(void *arg, int fd), void *arg)
{
    struct statx stx;
    int fd;

    pthread_mutex_lock(&passage->lock);
    while (passage->opening || passage->old >= 0)
        pthread_cond_wait(&passage->changed, &passage->lock);
    if (passage->clone >= 0) {
        bool unproved = passage->unproved;

        fd = passage->clone;
        passage->inside++;
        pthread_mutex_unlock(&passage->lock);
        return !unproved || prove(passage, fd, is_ours, arg) ? fd : -1;
    }
    passage->opening = true;
    pthread_mutex_unlock(&passage->lock);
    fd = open_clone(passage, is_ours, arg, &stx);
    pthread_mutex_lock(&passage->lock);
    passage->opening = false;
    if (fd >= 0) {
        take_clone(passage, fd, &stx);
        passage->inside = 1;
    }
    pthread_cond_broadcast(&passage->changed);
    pthread_mutex_unlock(&passage->lock);
    return fd >= 0 || errno == ENOENT ? fd : open_path(passage, is_ours, arg);
}

void passage_leave(struct passage *passage, int fd)
{
    pthread_mutex_lock(&passage->lock);
    if (fd == passage->clone) {
        passage->inside--;
        fd = -1;
    } else if (fd == passage->old) {
        if (--passage->inside_old > 0)
            fd = -1;
        else
            passage->old = -1;
        pthread_cond_broadcast(&passage->changed);
    }
    pthread_mutex_unlock(&passage->lock);
    if (fd >= 0)
        close(fd);
}
