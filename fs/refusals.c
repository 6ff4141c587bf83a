#include "refusals.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WORDS_MAX 500

void refusals_init(struct refusals *refusals)
{
    memset(refusals, 0, sizeof(*refusals));
    pthread_mutex_init(&refusals->lock, NULL);
}

void refusals_destroy(struct refusals *refusals)
{
    for (size_t i = 0; i < REFUSALS_KEPT; i++)
        free(refusals->lines[i]);
    pthread_mutex_destroy(&refusals->lock);
}

/* One line: what would break it becomes a blank, and trailing blanks go. */
static size_t flatten(const char *words, size_t len, char out[WORDS_MAX + 1])
{
    if (len > WORDS_MAX)
        len = WORDS_MAX;
    for (size_t i = 0; i < len; i++)
        out[i] = (unsigned char)words[i] < 0x20 || words[i] == 0x7f ? ' ' : words[i];
    while (len > 0 && out[len - 1] == ' ')
        len--;
    out[len] = '\0';
    return len;
}

void refusals_add(struct refusals *refusals, const char *method, const char *path, int status, const char *words,
                  size_t len)
{
    char when[32], flat[WORDS_MAX + 1], *line, *old;
    time_t now = time(NULL);
    struct tm tm;

    gmtime_r(&now, &tm);
    strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
    flatten(words, len, flat);
    if (asprintf(&line, "%s %s %s %d %s\n", when, method, path, status, flat) < 0)
        return;
    pthread_mutex_lock(&refusals->lock);
    old = refusals->lines[refusals->next];
    refusals->lines[refusals->next] = line;
    refusals->next = (refusals->next + 1) % REFUSALS_KEPT;
    pthread_mutex_unlock(&refusals->lock);
    free(old);
}

char *refusals_text(struct refusals *refusals, size_t *ret_len)
{
    size_t len = 0, at = 0;
    char *text;

    pthread_mutex_lock(&refusals->lock);
    for (size_t i = 0; i < REFUSALS_KEPT; i++)
        len += refusals->lines[i] ? strlen(refusals->lines[i]) : 0;
    text = malloc(len + 1);
    for (size_t i = 0; text && i < REFUSALS_KEPT; i++) {
        const char *line = refusals->lines[(refusals->next + i) % REFUSALS_KEPT];

        if (line) {
            memcpy(text + at, line, strlen(line));
            at += strlen(line);
        }
    }
    pthread_mutex_unlock(&refusals->lock);
    if (text) {
        text[len] = '\0';
        *ret_len = len;
    }
    return text;
}
