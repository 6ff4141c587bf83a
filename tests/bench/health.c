/*
 * health COUNT MILLISECONDS: COUNT servers, each on a port of its own, that answer any request 200, so much later.
 *
 * Prints the ports, one a line, then an empty line. One thread: what it answers is all due in the order in which it
 * came.
 */
#include "histogram.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define WAITING_MAX 65536

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/* A ring: connections whose request has come. */
static struct {
    int fd;
    uint64_t due_ns;
} waiting[WAITING_MAX];

int main(int argc, char **argv)
{
    size_t count = argc == 3 ? strtoul(argv[1], NULL, 10) : 0, head = 0, tail = 0;
    int epoll = epoll_create1(EPOLL_CLOEXEC), listeners_end = 0;
    uint64_t delay_ns = argc == 3 ? (uint64_t)(atof(argv[2]) * 1e6) : 0;
    struct epoll_event event;

    if (count == 0 || epoll < 0)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t i = 0; i < count; i++) {
        struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
        socklen_t len = sizeof(own);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
        if (fd < 0 || bind(fd, (struct sockaddr *)&own, len) < 0 || listen(fd, 128) < 0 ||
            getsockname(fd, (struct sockaddr *)&own, &len) < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
            return 1;
        listeners_end = fd + 1; /* nothing closes a file before the loop: their numbers are all below it */
        printf("%d\n", ntohs(own.sin_port));
    }
    printf("\n");
    fflush(stdout);
    for (;;) {
        uint64_t now = now_ns();
        struct timespec left = {0, 0}, *timeout = NULL;

        if (head != tail) {
            uint64_t due = waiting[head % WAITING_MAX].due_ns, ns = due > now ? due - now : 0;

            left = (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
            timeout = &left;
        }
        if (epoll_pwait2(epoll, &event, 1, timeout, NULL) == 1) {
            int fd = event.data.fd;

            if (fd < listeners_end) {
                event.data.fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
                event.events = EPOLLIN;
                if (event.data.fd >= 0)
                    epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event);
            } else {
                char request[8192];
                ssize_t n = recv(fd, request, sizeof(request), 0);

                epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL);
                if (n <= 0 || tail - head == WAITING_MAX) {
                    close(fd);
                } else {
                    waiting[tail % WAITING_MAX].fd = fd;
                    waiting[tail++ % WAITING_MAX].due_ns = now_ns() + delay_ns;
                }
            }
        }
        for (now = now_ns(); head != tail && waiting[head % WAITING_MAX].due_ns <= now; head++) {
            int fd = waiting[head % WAITING_MAX].fd;

            (void)!send(fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL);
            close(fd);
        }
    }
}
