/* The driver's log: stderr in the foreground, syslog in the background. Any thread. No secret is ever passed here. */
#ifndef CONSULFS_LOG_H
#define CONSULFS_LOG_H

#include <stdbool.h>
#include <syslog.h>

void log_init(bool to_syslog, bool debug);
/* One line, without a newline; priority is syslog's (LOG_ERR … LOG_DEBUG). */
void log_line(int priority, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
