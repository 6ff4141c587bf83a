#include "gate.h"

void gate_init(struct gate *gate)
{
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->emptied, NULL);
    gate->epoch = 0;
    gate->inside[0] = gate->inside[1] = 0;
}

void gate_destroy(struct gate *gate)
{
    pthread_cond_destroy(&gate->emptied);
    pthread_mutex_destroy(&gate->lock);
}

unsigned gate_enter(struct gate *gate)
{
    unsigned ticket;

    pthread_mutex_lock(&gate->lock);
    ticket = gate->epoch & 1;
    gate->inside[ticket]++;
    pthread_mutex_unlock(&gate->lock);
    return ticket;
}

void gate_leave(struct gate *gate, unsigned ticket)
{
    pthread_mutex_lock(&gate->lock);
    if (--gate->inside[ticket] == 0)
        pthread_cond_signal(&gate->emptied);
    pthread_mutex_unlock(&gate->lock);
}

void gate_synchronize(struct gate *gate)
{
    unsigned old;

    pthread_mutex_lock(&gate->lock);
    old = gate->epoch++ & 1;
    while (gate->inside[old] > 0)
        pthread_cond_wait(&gate->emptied, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}
