/* The CONSUL_* environment and Consul's address; see config.h. */
#include "config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>
#include <unistd.h>

/* A token is a UUID, or at most a JWT of a few KiB; Consul's whole request header may have 1 MiB. */
#define TOKEN_FILE_MAX 16384

/* RFC 1035 allows a name of 253 characters; an IPv6 address with a zone is shorter. */
#define HOST_MAX 253

/* Stores one line for the user and returns r, so that a failure is one statement. */
__attribute__((format(printf, 3, 4))) static int fail(char **ret_error, int r, const char *fmt, ...)
{
    va_list args;
    char *text;

    va_start(args, fmt);
    if (vasprintf(&text, fmt, args) < 0)
        text = NULL;
    va_end(args);
    *ret_error = text;
    return r;
}

static int fail_memory(char **ret_error)
{
    *ret_error = NULL;
    return -ENOMEM;
}

static void free_secret(char *secret)
{
    if (!secret)
        return;
    explicit_bzero(secret, strlen(secret));
    free(secret);
}

/* Header injection (CR, LF), terminal escapes and truncation (NUL cannot occur here) all need one of these. */
static bool has_control(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return true;
    return false;
}

/* As Go's strconv.ParseBool, which the consul CLI uses. */
static bool parse_bool(const char *text, bool *ret)
{
    static const char *const truths[] = {"1", "t", "T", "true", "TRUE", "True"};
    static const char *const lies[] = {"0", "f", "F", "false", "FALSE", "False"};

    for (size_t i = 0; i < sizeof(truths) / sizeof(truths[0]); i++) {
        if (strcmp(text, truths[i]) == 0) {
            *ret = true;
            return true;
        }
        if (strcmp(text, lies[i]) == 0) {
            *ret = false;
            return true;
        }
    }
    return false;
}

/* The parts of an address, pointing into it; a length of 0 where there is none. */
struct address {
    const char *scheme, *host_port, *unix_socket, *prefix;
    size_t host_port_len, prefix_len;
};

/* RFC 3986's reg-name without escapes, plus "_" which real host names have. Not punycode: that is the resolver's. */
static bool valid_host_name(const char *host, size_t len)
{
    if (len == 0 || len > HOST_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = host[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
              c == '_'))
            return false;
    }
    return true;
}

/* The inside of the brackets: an IPv6 address, perhaps with a zone ("fe80::1%eth0", or %25 as RFC 6874 spells it). */
static bool valid_ipv6(const char *host, size_t len)
{
    const char *zone = memchr(host, '%', len);
    size_t address_len = zone ? (size_t)(zone - host) : len;
    char address[INET6_ADDRSTRLEN];
    struct in6_addr parsed;

    if (address_len >= sizeof(address) || (zone && !valid_host_name(zone + 1, len - address_len - 1)))
        return false;
    memcpy(address, host, address_len);
    address[address_len] = '\0';
    return inet_pton(AF_INET6, address, &parsed) == 1;
}

static bool valid_port(const char *port, size_t len)
{
    unsigned value = 0;

    if (len == 0 || len > 5)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (port[i] < '0' || port[i] > '9')
            return false;
        value = value * 10 + (unsigned)(port[i] - '0');
    }
    return value > 0 && value <= 65535;
}

/* What is wrong with host[:port], or NULL. */
static const char *check_host_port(const char *text, size_t len)
{
    const char *end = text + len, *colon;

    if (memchr(text, '@', len))
        return "has a user or password in it; set CONSUL_HTTP_AUTH instead";

    if (len > 0 && text[0] == '[') {
        const char *bracket = memchr(text, ']', len);

        if (!bracket || !valid_ipv6(text + 1, (size_t)(bracket - text - 1)))
            return "has no valid IPv6 address between its brackets";
        colon = bracket + 1;
        if (colon < end && *colon != ':')
            return "has something after its bracket that is not a port";
    } else {
        colon = memchr(text, ':', len);
        if (colon && memchr(colon + 1, ':', (size_t)(end - colon - 1)))
            return "has several colons; an IPv6 address goes in brackets, as in [::1]:8500";
        if (!colon)
            colon = end;
        if (colon == text)
            return "has no host";
        if (!valid_host_name(text, (size_t)(colon - text)))
            return "has no valid host";
    }
    if (colon < end && !valid_port(colon + 1, (size_t)(end - colon - 1)))
        return "has no valid port (1 to 65535)";
    return NULL;
}

/*
 * The prefix is put before every path, so it may hold nothing that would change what follows (a query, a fragment) or
 * that a proxy or Consul's own mux would "clean" into another path ("//", "/../").
 */
static const char *check_prefix(const char *prefix, size_t len)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%!$&'()*+,;=:@/";
    const char *end = prefix + len, *slash, *next;

    for (size_t i = 0; i < len; i++)
        if (!memchr(allowed, prefix[i], sizeof(allowed) - 1))
            return "has a character in its path that cannot be there";

    for (slash = prefix; slash < end; slash = next) {
        const char *component = slash + 1;
        size_t n;

        next = memchr(component, '/', (size_t)(end - component));
        if (!next)
            next = end;
        n = (size_t)(next - component);
        if (n == 0 || (n == 1 && component[0] == '.') || (n == 2 && memcmp(component, "..", 2) == 0))
            return "has an empty, . or .. component in its path";
    }
    return NULL;
}

/* Takes an address apart; returns what is wrong with it, or NULL. */
static const char *parse_address(const char *address, struct address *ret)
{
    struct address parsed = {0};
    const char *rest = strstr(address, "://"), *problem;
    size_t scheme_len = rest ? (size_t)(rest - address) : 0;

    if (has_control(address))
        return "has a control character in it";

    if (!rest) {
        rest = address;
    } else {
        rest += 3;
        if (scheme_len == 4 && strncasecmp(address, "unix", 4) == 0) {
            if (rest[0] != '/')
                return "needs an absolute path, as in unix:///run/consul.sock";
            if (strlen(rest) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
                return "has too long a path for a Unix socket";
            parsed.scheme = "http";
            parsed.unix_socket = rest;
            *ret = parsed;
            return NULL;
        }
        if (scheme_len == 4 && strncasecmp(address, "http", 4) == 0)
            parsed.scheme = "http";
        else if (scheme_len == 5 && strncasecmp(address, "https", 5) == 0)
            parsed.scheme = "https";
        else
            return "has an unknown scheme; http, https and unix are known";
    }

    parsed.host_port = rest;
    parsed.host_port_len = strcspn(rest, "/?#");
    parsed.prefix = rest + parsed.host_port_len;
    parsed.prefix_len = strlen(parsed.prefix);
    while (parsed.prefix_len > 0 && parsed.prefix[parsed.prefix_len - 1] == '/')
        parsed.prefix_len--; /* "http://host:8500/" is what people paste; "//v1/…" would only get a redirect */

    problem = check_host_port(parsed.host_port, parsed.host_port_len);
    if (!problem)
        problem = check_prefix(parsed.prefix, parsed.prefix_len);
    if (!problem)
        *ret = parsed;
    return problem;
}

int consul_config_set_address(struct consul_config *config, const char *address, char **ret_error)
{
    struct address parsed;
    const char *problem = address[0] ? parse_address(address, &parsed) : "is empty";
    char *scheme, *host_port, *unix_socket, *prefix;
    bool https;

    if (problem) {
        /* Not quoted where it may hold a password, or escapes for the terminal. */
        if (strchr(address, '@') || has_control(address))
            return fail(ret_error, -EINVAL, "Consul's address %s", problem);
        return fail(ret_error, -EINVAL, "Consul's address '%s' %s", address, problem);
    }

    /* As the consul CLI: never back to http when TLS was asked for. */
    https = config->ssl || (parsed.scheme && strcmp(parsed.scheme, "https") == 0);
    scheme = strdup(https ? "https" : "http");
    host_port = parsed.unix_socket ? strdup("localhost") : strndup(parsed.host_port, parsed.host_port_len);
    unix_socket = parsed.unix_socket ? strdup(parsed.unix_socket) : NULL;
    prefix = parsed.prefix_len ? strndup(parsed.prefix, parsed.prefix_len) : NULL;
    if (!scheme || !host_port || (parsed.unix_socket && !unix_socket) || (parsed.prefix_len && !prefix)) {
        free(scheme);
        free(host_port);
        free(unix_socket);
        free(prefix);
        return fail_memory(ret_error);
    }

    free(config->scheme);
    free(config->host_port);
    free(config->unix_socket);
    free(config->path_prefix);
    config->scheme = scheme;
    config->host_port = host_port;
    config->unix_socket = unix_socket;
    config->path_prefix = prefix;
    return 0;
}

/* source is for the message, in which the token itself must not appear. */
static int set_token(struct consul_config *config, const char *token, const char *source, char **ret_error)
{
    char *copy;

    if (has_control(token))
        return fail(ret_error, -EINVAL, "%s: the token has a control character (perhaps a line break) in it", source);
    copy = strdup(token);
    if (!copy)
        return fail_memory(ret_error);
    free_secret(config->token);
    config->token = copy;
    return 0;
}

/* Reads what a file has, up to size bytes; a pipe, as from a shell's <(…), may bring them in pieces. */
static int read_file(const char *path, char *data, size_t size, size_t *ret_len)
{
    size_t len = 0;
    int fd, r = 0;

    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -errno;
    while (len < size) {
        ssize_t n = read(fd, data + len, size - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            r = -errno;
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    close(fd);
    if (r == 0)
        *ret_len = len;
    return r;
}

static bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

int consul_config_set_token_file(struct consul_config *config, const char *path, char **ret_error)
{
    char data[TOKEN_FILE_MAX + 1];
    size_t begin = 0, end = 0;
    int r;

    r = read_file(path, data, sizeof(data), &end);
    if (r < 0)
        r = fail(ret_error, r, "cannot read the token file '%s': %s", path, strerror(-r));
    else if (end > TOKEN_FILE_MAX)
        r = fail(ret_error, -EFBIG, "the token file '%s' is larger than %d bytes", path, TOKEN_FILE_MAX);
    else if (memchr(data, '\0', end))
        r = fail(ret_error, -EINVAL, "the token file '%s' is not a text file", path);
    if (r < 0)
        goto out;

    while (end > 0 && is_blank(data[end - 1]))
        end--;
    while (begin < end && is_blank(data[begin]))
        begin++;
    data[end] = '\0';
    if (begin < end)
        r = set_token(config, data + begin, path, ret_error);
out:
    explicit_bzero(data, sizeof(data));
    return r;
}

int consul_config_set_datacenter(struct consul_config *config, const char *datacenter, char **ret_error)
{
    char *copy = NULL;

    if (datacenter && datacenter[0]) {
        if (has_control(datacenter))
            return fail(ret_error, -EINVAL, "the datacenter's name has a control character in it");
        copy = strdup(datacenter);
        if (!copy)
            return fail_memory(ret_error);
    }
    free(config->datacenter);
    config->datacenter = copy;
    return 0;
}

/* "name:port" and "[v6]:port" lose their port and brackets, as the consul CLI lets them be given. */
static char *bare_server_name(const char *text)
{
    const char *colon = strchr(text, ':');

    if (text[0] == '[')
        return strndup(text + 1, strcspn(text + 1, "]"));
    if (colon && !strchr(colon + 1, ':'))
        return strndup(text, (size_t)(colon - text));
    return strdup(text);
}

/* The variables that are plain strings. */
static const struct {
    const char *name;
    size_t offset;                   /* of the char * in struct consul_config */
    char *(*copy)(const char *text); /* malloc'd; NULL if memory is short */
} string_variables[] = {
    {"CONSUL_CACERT", offsetof(struct consul_config, ca_file), strdup},
    {"CONSUL_CAPATH", offsetof(struct consul_config, ca_path), strdup},
    {"CONSUL_CLIENT_CERT", offsetof(struct consul_config, client_cert), strdup},
    {"CONSUL_CLIENT_KEY", offsetof(struct consul_config, client_key), strdup},
    {"CONSUL_TLS_SERVER_NAME", offsetof(struct consul_config, tls_server_name), bare_server_name},
    {"CONSUL_NAMESPACE", offsetof(struct consul_config, namespace_), strdup},
    {"CONSUL_PARTITION", offsetof(struct consul_config, partition), strdup},
};

/* The value of a variable that is set and not empty, else NULL in *ret. */
static int get_variable(char *(*getenv_fn)(const char *), const char *name, const char **ret, char **ret_error)
{
    const char *value = getenv_fn(name);

    if (value && has_control(value))
        return fail(ret_error, -EINVAL, "%s has a control character (perhaps a line break) in it", name);
    *ret = value && value[0] ? value : NULL;
    return 0;
}

static int get_bool_variable(char *(*getenv_fn)(const char *), const char *name, bool *value, char **ret_error)
{
    const char *text;
    int r = get_variable(getenv_fn, name, &text, ret_error);

    if (r < 0 || !text)
        return r;
    if (!parse_bool(text, value))
        return fail(ret_error, -EINVAL, "%s is '%s', which is neither true nor false", name, text);
    return 0;
}

/* Fills a config that is zero so far; what it holds after a failure is for the caller to clear. */
static int read_environment(struct consul_config *config, char *(*getenv_fn)(const char *), char **ret_error)
{
    const char *value;
    int r;

    config->tls_verify = true;
    r = get_bool_variable(getenv_fn, "CONSUL_HTTP_SSL", &config->ssl, ret_error);
    if (r < 0)
        return r;
    r = get_bool_variable(getenv_fn, "CONSUL_HTTP_SSL_VERIFY", &config->tls_verify, ret_error);
    if (r < 0)
        return r;

    r = get_variable(getenv_fn, "CONSUL_HTTP_ADDR", &value, ret_error);
    if (r < 0)
        return r;
    r = consul_config_set_address(config, value ? value : "127.0.0.1:8500", ret_error);
    if (r < 0)
        return r;

    for (size_t i = 0; i < sizeof(string_variables) / sizeof(string_variables[0]); i++) {
        char **field = (char **)((char *)config + string_variables[i].offset);

        r = get_variable(getenv_fn, string_variables[i].name, &value, ret_error);
        if (r < 0)
            return r;
        if (!value)
            continue;
        *field = string_variables[i].copy(value);
        if (!*field)
            return fail_memory(ret_error);
    }
    if (!config->client_cert != !config->client_key)
        return fail(ret_error, -EINVAL, "CONSUL_CLIENT_CERT and CONSUL_CLIENT_KEY go together: %s is not set",
                    config->client_cert ? "CONSUL_CLIENT_KEY" : "CONSUL_CLIENT_CERT");

    r = get_variable(getenv_fn, "CONSUL_HTTP_AUTH", &value, ret_error);
    if (r < 0)
        return r;
    if (value && asprintf(&config->http_auth_user_pass, "%s%s", value, strchr(value, ':') ? "" : ":") < 0) {
        config->http_auth_user_pass = NULL;
        return fail_memory(ret_error);
    }

    r = get_variable(getenv_fn, "CONSUL_HTTP_TOKEN", &value, ret_error);
    if (r < 0)
        return r;
    if (value) {
        r = set_token(config, value, "CONSUL_HTTP_TOKEN", ret_error);
        if (r < 0)
            return r;
    }
    r = get_variable(getenv_fn, "CONSUL_HTTP_TOKEN_FILE", &value, ret_error);
    if (r < 0 || !value)
        return r;
    return consul_config_set_token_file(config, value, ret_error);
}

int consul_config_init_from_env(struct consul_config *config, char *(*getenv_fn)(const char *name), char **ret_error)
{
    struct consul_config fresh = {0};
    int r = read_environment(&fresh, getenv_fn ? getenv_fn : getenv, ret_error);

    if (r < 0)
        consul_config_clear(&fresh);
    else
        *config = fresh;
    return r;
}

void consul_config_clear(struct consul_config *config)
{
    if (!config)
        return;
    free_secret(config->token);
    free_secret(config->http_auth_user_pass);
    free(config->scheme);
    free(config->host_port);
    free(config->unix_socket);
    free(config->path_prefix);
    free(config->ca_file);
    free(config->ca_path);
    free(config->client_cert);
    free(config->client_key);
    free(config->tls_server_name);
    free(config->namespace_);
    free(config->partition);
    free(config->datacenter);
    *config = (struct consul_config){0};
}

int consul_config_base_url(const struct consul_config *config, char **ret)
{
    char *url;

    if (asprintf(&url, "%s://%s%s", config->scheme, config->host_port, config->path_prefix ? config->path_prefix : "") <
        0)
        return -ENOMEM;
    *ret = url;
    return 0;
}
