#include "order.h"

#include "answer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char blanks[] = " \t\n";

/* The next word at *at, the caller's, or NULL at the end or for a NUL in the line. */
static char *next_word(const char *data, size_t len, size_t *at)
{
    size_t begin, n = 0;

    while (*at < len && data[*at] && strchr(blanks, data[*at]))
        ++*at;
    begin = *at;
    while (begin + n < len && data[begin + n] && !strchr(blanks, data[begin + n]))
        n++;
    *at = begin + n;
    return n > 0 ? strndup(data + begin, n) : NULL;
}

static bool is_end(const char *data, size_t len, size_t at)
{
    while (at < len && data[at] && strchr(blanks, data[at]))
        at++;
    return at == len;
}

char *order_word(const char *data, size_t len)
{
    size_t at = 0;
    char *word = next_word(data, len, &at);

    if (word && is_end(data, len, at))
        return word;
    free(word);
    return NULL;
}

static int send_word(struct op *op, const struct order *order, const char *word, const char *option)
{
    struct consul_request request = {.method = order->method, .intent = CONSUL_WRITE_STRICT};
    char *path = answer_path(order->path, word, option ? order->query : "");
    int r;

    if (!path)
        return -ENOMEM;
    request.path = path;
    r = op_request(op, &request);
    free(path);
    return r;
}

int order_send(struct op *op, const struct order *order, const char *data, size_t len)
{
    char *word, *option;
    size_t at = 0;
    int r;

    if (op->stage > 0)
        return op->result;
    word = next_word(data, len, &at);
    option = next_word(data, len, &at);
    if (word && is_end(data, len, at) && (!option || (order->option && strcmp(option, order->option) == 0))) {
        r = send_word(op, order, word, option);
    } else {
        answer_refuse(op, order->path,
                      order->option ? "one word is expected, or one and \"%s\"" : "one word is expected",
                      order->option);
        r = -EINVAL;
    }
    free(word);
    free(option);
    return r;
}
