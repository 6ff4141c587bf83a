#include "log.h"

#include <stdarg.h>
#include <stdio.h>

/* Set before there are other threads. */
static bool use_syslog, show_debug;

void log_init(bool to_syslog, bool debug)
{
    use_syslog = to_syslog;
    show_debug = debug;
    if (to_syslog)
        openlog("consulfs", LOG_PID, LOG_DAEMON);
}

static const char *word_of(int priority)
{
    return priority <= LOG_ERR       ? "ERROR"
           : priority == LOG_WARNING ? "warning"
           : priority == LOG_DEBUG   ? "debug"
                                     : "info";
}

void log_line(int priority, const char *format, ...)
{
    char line[1024];
    va_list args;

    if (priority == LOG_DEBUG && !show_debug)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (use_syslog)
        syslog(priority, "%s", line);
    else
        fprintf(stderr, "consulfs: %s: %s\n", word_of(priority), line);
}
