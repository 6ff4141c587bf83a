/*
 * delay HOST:PORT MILLISECONDS: passes connections on to HOST:PORT, and what a client sends that much later.
 *
 * Prints the port on 127.0.0.1 that it listens on. A thread for each connection; what waits is in its queue, so that
 * two pieces sent at once arrive at once.
 */
#include "histogram.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE 65536

struct piece {
    struct piece *next;
    uint64_t due_ns;
    size_t len;
    char data[];
};

static struct sockaddr_in target;
static uint64_t delay_ns;

static bool send_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

        if (n <= 0)
            return false;
        data += n;
        len -= (size_t)n;
    }
    return true;
}

static void no_delay(int fd)
{
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* Until the next piece is due; for ever where there is none. */
static struct timespec *time_left(const struct piece *first, struct timespec *left)
{
    uint64_t now = now_ns(), ns = first && first->due_ns > now ? first->due_ns - now : 0;

    left->tv_sec = (time_t)(ns / 1000000000u);
    left->tv_nsec = (long)(ns % 1000000000u);
    return first ? left : NULL;
}

static void *serve(void *argument)
{
    int client = (int)(intptr_t)argument, agent = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct piece *first = NULL, **last = &first, *piece;
    char *buffer = malloc(PIECE);
    struct timespec left;
    ssize_t n;

    if (!buffer || agent < 0 || connect(agent, (struct sockaddr *)&target, sizeof(target)) < 0)
        goto out;
    no_delay(client);
    no_delay(agent);
    for (;;) {
        struct pollfd fds[2] = {{client, POLLIN, 0}, {agent, POLLIN, 0}};

        if (ppoll(fds, 2, time_left(first, &left), NULL) < 0)
            break;
        while (first && first->due_ns <= now_ns()) {
            piece = first;
            first = piece->next;
            if (!first)
                last = &first;
            send_all(agent, piece->data, piece->len);
            free(piece);
        }
        if (fds[0].revents) {
            n = recv(client, buffer, PIECE, 0);
            if (n <= 0)
                break;
            piece = malloc(sizeof(*piece) + (size_t)n);
            if (!piece)
                break;
            piece->next = NULL;
            piece->due_ns = now_ns() + delay_ns;
            piece->len = (size_t)n;
            memcpy(piece->data, buffer, (size_t)n);
            *last = piece;
            last = &piece->next;
        }
        if (fds[1].revents) {
            n = recv(agent, buffer, PIECE, 0);
            if (n <= 0 || !send_all(client, buffer, (size_t)n))
                break;
        }
    }
out:
    while (first) {
        piece = first;
        first = piece->next;
        free(piece);
    }
    free(buffer);
    if (agent >= 0)
        close(agent);
    close(client);
    return NULL;
}

int main(int argc, char **argv)
{
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof(own);
    pthread_attr_t attributes;
    char *colon;

    if (argc != 3 || !(colon = strrchr(argv[1], ':')))
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    *colon = '\0';
    target.sin_family = AF_INET;
    target.sin_port = htons((uint16_t)atoi(colon + 1));
    delay_ns = (uint64_t)(atof(argv[2]) * 1e6);
    if (inet_pton(AF_INET, argv[1], &target.sin_addr) != 1)
        return 2;
    if (listener < 0 || bind(listener, (struct sockaddr *)&own, sizeof(own)) < 0 || listen(listener, 1024) < 0 ||
        getsockname(listener, (struct sockaddr *)&own, &len) < 0)
        return 1;
    printf("%d\n", ntohs(own.sin_port));
    fflush(stdout);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;

        if (client < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            return 1;
        }
        if (pthread_create(&thread, &attributes, serve, (void *)(intptr_t)client) != 0)
            close(client);
    }
}
