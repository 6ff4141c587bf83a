/* An instance's health URL: found, and found to be the instance's; see health_url.h. */
#include "health_url.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* An IP address in one form, IPv4 as ::ffff:a.b.c.d, so that comparing is memcmp. Canonical spellings only. */
static bool parse_ip(const char *text, struct in6_addr *ret)
{
    struct in_addr in4;

    if (inet_pton(AF_INET6, text, ret) == 1)
        return true;
    if (inet_pton(AF_INET, text, &in4) != 1)
        return false;
    memset(ret->s6_addr, 0, 10);
    memset(ret->s6_addr + 10, 0xff, 2);
    memcpy(ret->s6_addr + 12, &in4, 4);
    return true;
}

/* Resolvers still take "127.1", "0x7f.0.0.1" and "2130706433" for addresses. Nobody writes that but to hide one. */
static bool is_disguised_ip(const char *text)
{
    struct in_addr in4;

    return inet_aton(text, &in4) && inet_pton(AF_INET, text, &in4) != 1;
}

/* Names that hosts files and resolvers lead to loopback: RFC 6761, section 6.3, and what distributions add. */
static bool is_loopback_name(const char *text)
{
    static const char *const names[] = {"localhost",  "localhost.localdomain", "localhost4",
                                        "localhost6", "ip6-localhost",         "ip6-loopback"};
    size_t len = strlen(text);

    if (len > 0 && text[len - 1] == '.')
        len--;
    if (len > 10 && strncasecmp(text + len - 10, ".localhost", 10) == 0)
        return true;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (len == strlen(names[i]) && strncasecmp(text, names[i], len) == 0)
            return true;
    return false;
}

bool consul_probe_is_own_host(const char *host)
{
    struct in6_addr ip;

    if (!parse_ip(host, &ip))
        return is_loopback_name(host);
    if (IN6_IS_ADDR_LOOPBACK(&ip) || IN6_IS_ADDR_UNSPECIFIED(&ip))
        return true;
    return IN6_IS_ADDR_V4MAPPED(&ip) && (ip.s6_addr[12] == 127 || ip.s6_addr[12] == 0);
}

static bool same_host(const char *a, const char *b)
{
    struct in6_addr ip_a, ip_b;
    bool is_ip_a = parse_ip(a, &ip_a), is_ip_b = parse_ip(b, &ip_b);

    if (is_ip_a != is_ip_b)
        return false;
    return is_ip_a ? IN6_ARE_ADDR_EQUAL(&ip_a, &ip_b) : strcasecmp(a, b) == 0;
}

bool consul_probe_host_allowed(const char *host, const char *const *catalog_addresses, size_t n, bool node_is_local)
{
    if (!host[0] || is_disguised_ip(host))
        return false;
    if (consul_probe_is_own_host(host))
        return node_is_local || (n > 0 && catalog_addresses[0] && consul_probe_is_own_host(catalog_addresses[0]));

    for (size_t i = 0; i < n; i++)
        if (catalog_addresses[i] && same_host(host, catalog_addresses[i]))
            return true;
    return false;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

/* A name or IPv4 address as URLs and Consul's host:port have it; whatever else it may be is for the comparison. */
static bool valid_host_name(const char *host, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = host[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '-' || c == '.' || c == '_'))
            return false;
    }
    return len > 0;
}

static bool parse_port(const char *text, size_t len, uint16_t *ret)
{
    unsigned port = 0;

    if (len == 0 || len > 5)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (!is_digit(text[i]))
            return false;
        port = port * 10 + (unsigned)(text[i] - '0');
    }
    if (port == 0 || port > UINT16_MAX)
        return false;
    *ret = (uint16_t)port;
    return true;
}

/* host:port and [v6]:port; the port may be missing if default_port is not 0. No zones: they name our interfaces. */
static bool parse_host_port(const char *text, size_t len, uint16_t default_port, struct consul_health_target *target)
{
    const char *end = text + len, *host = text, *colon;
    size_t host_len;

    if (len > 0 && text[0] == '[') {
        const char *bracket = memchr(text, ']', len);

        if (!bracket)
            return false;
        host = text + 1;
        host_len = (size_t)(bracket - host);
        colon = bracket + 1;
    } else {
        colon = memchr(text, ':', len);
        if (!colon)
            colon = end;
        host_len = (size_t)(colon - text);
    }
    if (host_len > CONSUL_HEALTH_HOST_MAX)
        return false;
    memcpy(target->host, host, host_len);
    target->host[host_len] = '\0';

    if (host == text) {
        if (!valid_host_name(host, host_len))
            return false;
    } else {
        struct in6_addr in6;

        if (memchr(host, '\0', host_len) || inet_pton(AF_INET6, target->host, &in6) != 1)
            return false;
    }

    if (colon == end) {
        target->port = default_port;
        return default_port != 0;
    }
    return *colon == ':' && parse_port(colon + 1, (size_t)(end - colon - 1), &target->port);
}

/*
 * RFC 3986's characters without the '@' of a user in front (checked in the authority, where it matters) and without
 * '#': not sent to servers, so an agent that has one there uses another URL than it shows.
 */
static bool valid_url_char(char c) { return c > ' ' && c < 0x7f && !strchr("\"#<>\\^`{|}", c); }

static bool parse_url(const char *url, size_t len, struct consul_health_target *ret)
{
    struct consul_health_target target = {.kind = CONSUL_HEALTH_HTTP};
    size_t authority, authority_len;
    uint16_t default_port;

    if (len > CONSUL_HEALTH_URL_MAX)
        return false;
    for (size_t i = 0; i < len; i++)
        if (!valid_url_char(url[i]))
            return false;

    if (len > 7 && strncasecmp(url, "http://", 7) == 0) {
        authority = 7;
        default_port = 80;
    } else if (len > 8 && strncasecmp(url, "https://", 8) == 0) {
        authority = 8;
        default_port = 443;
    } else {
        return false;
    }
    for (authority_len = 0; authority + authority_len < len; authority_len++)
        if (url[authority + authority_len] == '/' || url[authority + authority_len] == '?')
            break;

    if (!parse_host_port(url + authority, authority_len, default_port, &target))
        return false;
    memcpy(target.url, url, len);
    target.url[len] = '\0';
    *ret = target;
    return true;
}

bool consul_probe_url_allowed(const char *url, const char *const *catalog_addresses, size_t n, bool node_is_local)
{
    size_t len = strnlen(url, CONSUL_HEALTH_URL_MAX + 1);
    struct consul_health_target target;

    return (parse_url(url, len, &target) || parse_host_port(url, len, 0, &target)) &&
           consul_probe_host_allowed(target.host, catalog_addresses, n, node_is_local);
}

int consul_health_url_parse(const char *url, struct consul_health_target *ret)
{
    return parse_url(url, strnlen(url, CONSUL_HEALTH_URL_MAX + 1), ret) ? 0 : -EINVAL;
}

/* "HTTP GET <url>: 200 OK Output: …"; no URL that we accept holds a blank, so the first one after it is its end. */
static bool parse_http_output(const char *text, struct consul_health_target *ret)
{
    size_t method_len, url_len;

    method_len = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    if (method_len == 0 || method_len > 16 || text[method_len] != ' ')
        return false;
    text += method_len + 1;

    url_len = strcspn(text, " ");
    if (url_len == 0 || text[url_len] != ' ' || text[url_len - 1] != ':')
        return false;
    if (!is_digit(text[url_len + 1]) || !is_digit(text[url_len + 2]) || !is_digit(text[url_len + 3]) ||
        text[url_len + 4] != ' ')
        return false;
    return parse_url(text, url_len - 1, ret);
}

/* "h:p: Success" with that tail to the letter, and for gRPC a "/service" after the port. */
static bool parse_connect_output(const char *text, const char *tail, enum consul_health_kind kind,
                                 struct consul_health_target *ret)
{
    struct consul_health_target target = {.kind = kind};
    size_t len = strcspn(text, " "), host_port_len;

    if (len == 0 || text[len - 1] != ':' || strcmp(text + len - 1, tail) != 0)
        return false;
    host_port_len = len - 1;
    if (kind == CONSUL_HEALTH_GRPC && memchr(text, '/', host_port_len))
        host_port_len = strcspn(text, "/");
    if (!parse_host_port(text, host_port_len, 0, &target))
        return false;
    *ret = target;
    return true;
}

/* What follows a prefix, or NULL. */
static const char *after(const char *text, const char *prefix)
{
    size_t len = strlen(prefix);

    return strncmp(text, prefix, len) == 0 ? text + len : NULL;
}

int consul_health_target_parse(const char *type, const char *output, struct consul_health_target *ret)
{
    bool any = !type || !type[0];
    const char *rest;

    if (!output)
        return -ENOENT;

    if ((any || strcmp(type, "http") == 0) && (rest = after(output, "HTTP ")) && parse_http_output(rest, ret))
        return 0;
    /* Newer agents say "TCP+TLS" where the check uses TLS; a plain connect tells as much. */
    if ((any || strcmp(type, "tcp") == 0) &&
        ((rest = after(output, "TCP connect ")) || (rest = after(output, "TCP+TLS connect "))) &&
        parse_connect_output(rest, ": Success", CONSUL_HEALTH_TCP, ret))
        return 0;
    if ((any || strcmp(type, "grpc") == 0) && (rest = after(output, "gRPC check ")) &&
        parse_connect_output(rest, ": success", CONSUL_HEALTH_GRPC, ret))
        return 0;
    return -ENOENT;
}

enum consul_health_kind consul_health_target(const char *type, const char *output, char **ret_target)
{
    struct consul_health_target target;
    char *text;

    if (consul_health_target_parse(type, output, &target) < 0)
        return CONSUL_HEALTH_NONE;
    if (target.kind == CONSUL_HEALTH_HTTP)
        text = strdup(target.url);
    else if (asprintf(&text, strchr(target.host, ':') ? "[%s]:%u" : "%s:%u", target.host, (unsigned)target.port) < 0)
        text = NULL;
    if (!text)
        return CONSUL_HEALTH_NONE;
    *ret_target = text;
    return target.kind;
}
