#include "write_queue.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct write_queue {
    char *datacenter; /* constant; NULL: the agent's */
    unsigned under_way;
    uint64_t least_ns; /* that a request took lately; 0: not known */
    struct queued_write *first, **end;
    struct write_queue *next;
};

struct write_queues {
    pthread_mutex_t lock; /* innermost */
    /* guarded by lock */
    struct write_queue *first;
    uint64_t together;
};

struct write_queues *write_queues_new(void)
{
    struct write_queues *queues = calloc(1, sizeof(*queues));

    if (queues)
        pthread_mutex_init(&queues->lock, NULL);
    return queues;
}

void write_queues_free(struct write_queues *queues)
{
    if (!queues)
        return;
    while (queues->first) {
        struct write_queue *queue = queues->first;

        queues->first = queue->next;
        free(queue->datacenter);
        free(queue);
    }
    pthread_mutex_destroy(&queues->lock);
    free(queues);
}

/* The lock is held. NULL without memory. One for each datacenter that was ever written to: they are few. */
static struct write_queue *queue_of(struct write_queues *queues, const char *datacenter)
{
    struct write_queue *queue = queues->first;

    while (queue && (!queue->datacenter != !datacenter || (datacenter && strcmp(queue->datacenter, datacenter) != 0)))
        queue = queue->next;
    if (queue)
        return queue;
    queue = calloc(1, sizeof(*queue));
    if (!queue || (datacenter && !(queue->datacenter = strdup(datacenter)))) {
        free(queue);
        return NULL;
    }
    queue->end = &queue->first;
    queue->next = queues->first;
    queues->first = queue;
    return queue;
}

static unsigned at_once(const struct write_queue *queue)
{
    return queue->least_ns > 0 && queue->least_ns < WRITE_QUEUE_FAR_NS ? WRITE_QUEUE_AT_ONCE : WRITE_QUEUE_AT_ONCE_FAR;
}

/* The least is what it takes by itself, however busy this host is; it follows slowly when that becomes more. */
static void note_time(struct write_queue *queue, uint64_t took_ns)
{
    if (took_ns > 0 && (queue->least_ns == 0 || took_ns < queue->least_ns))
        queue->least_ns = took_ns;
    else if (took_ns > 0)
        queue->least_ns += (took_ns - queue->least_ns) / 1024;
}

bool write_queue_begin(struct write_queues *queues, const char *datacenter, struct queued_write *write)
{
    struct write_queue *queue;
    bool now = true;

    pthread_mutex_lock(&queues->lock);
    queue = queue_of(queues, datacenter);
    write->queue = queue;
    write->next = NULL;
    if (queue) {
        now = queue->under_way < at_once(queue);
        if (now) {
            queue->under_way++;
        } else {
            *queue->end = write;
            queue->end = &write->next;
        }
    }
    pthread_mutex_unlock(&queues->lock);
    return now;
}

static bool has_key(const struct queued_write *writes, const char *key)
{
    for (; writes; writes = writes->next)
        if (strcmp(writes->key, key) == 0)
            return true;
    return false;
}

/* The lock is held. The first, and as many of those behind it as may go along. */
static struct queued_write *take(struct write_queue *queue, size_t max_writes, size_t max_len)
{
    struct queued_write *taken = NULL, **to = &taken, **at = &queue->first;
    size_t n = 0, len = 0;

    while (*at && n < max_writes) {
        struct queued_write *write = *at;

        if (n > 0 && write->deadline_ns > taken->deadline_ns + WRITE_QUEUE_SPREAD_NS)
            break;
        if (n > 0 && (len + write->len > max_len || has_key(taken, write->key))) {
            at = &write->next;
            continue;
        }
        *at = write->next;
        write->next = NULL;
        *to = write;
        to = &write->next;
        len += write->len;
        n++;
    }
    for (queue->end = &queue->first; *queue->end; queue->end = &(*queue->end)->next)
        ;
    return taken;
}

struct queued_write *write_queue_end(struct write_queues *queues, struct queued_write *write, uint64_t took_ns,
                                     size_t max_writes, size_t max_len)
{
    struct write_queue *queue = write->queue;
    struct queued_write *next;

    if (!queue)
        return NULL;
    pthread_mutex_lock(&queues->lock);
    note_time(queue, took_ns);
    next = take(queue, max_writes, max_len < WRITE_QUEUE_TOGETHER ? max_len : WRITE_QUEUE_TOGETHER);
    if (!next)
        queue->under_way--;
    for (const struct queued_write *each = next; next && next->next && each; each = each->next)
        queues->together++;
    pthread_mutex_unlock(&queues->lock);
    return next;
}

uint64_t write_queues_together(struct write_queues *queues)
{
    uint64_t together;

    pthread_mutex_lock(&queues->lock);
    together = queues->together;
    pthread_mutex_unlock(&queues->lock);
    return together;
}
