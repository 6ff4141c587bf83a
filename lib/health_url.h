/*
 * Where an instance's health can be asked, as far as the catalog tells, and whether we may go there.
 *
 * A check's Definition is empty in the catalog, so the target that its agent uses is only to be read from what the
 * check printed. Agents write these texts (hashicorp/consul, agent/checks/check.go), but so can whoever reports a TTL
 * check or writes to the catalog: everything here is hostile until proved otherwise, and consul_probe_host_allowed()
 * keeps us from being sent anywhere but to the instance itself.
 *
 * Pure functions: no state, no I/O, no name lookups, callable from any thread. Module-private header: nothing is
 * public.
 */
#ifndef CONSUL_HEALTH_URL_H
#define CONSUL_HEALTH_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "consul.h"

#define CONSUL_HEALTH_URL_MAX 2048 /* bytes, without the NUL; nobody's health URL is longer */
#define CONSUL_HEALTH_HOST_MAX 253 /* RFC 1035 */

struct consul_health_target {
    enum consul_health_kind kind; /* never CONSUL_HEALTH_NONE. GRPC is to be probed as TCP: we don't speak it */
    char host[CONSUL_HEALTH_HOST_MAX + 1]; /* a name or an address; IPv6 without its brackets */
    uint16_t port;                         /* for a URL without one its scheme's, 80 or 443 */
    char url[CONSUL_HEALTH_URL_MAX + 1];   /* CONSUL_HEALTH_HTTP: as the agent has it; else "" */
};

/*
 * Reads the target from a check's Type and Output (either may be NULL). Type must be the one that goes with the text,
 * or empty, as servers before 1.8 have it: a TTL check's note may say anything. Only what an agent says of a check that
 * got an answer is understood:
 *
 *     HTTP GET http://10.0.0.7:8080/health: 200 OK Output: …      any method, http and https only
 *     TCP connect 10.0.0.7:8080: Success
 *     gRPC check 10.0.0.7:8080/service: success
 *
 * Returns 0, or -ENOENT with *ret untouched when there is nothing that is safe to use.
 */
__attribute__((warn_unused_result)) int consul_health_target_parse(const char *type, const char *output,
                                                                   struct consul_health_target *ret);

/*
 * Takes a URL apart; as strict as the above: http or https, a plain host, no user, no fragment, printable ASCII without
 * the characters that parsers disagree about. -EINVAL with *ret untouched otherwise.
 */
__attribute__((warn_unused_result)) int consul_health_url_parse(const char *url, struct consul_health_target *ret);

/*
 * Whether a probe of an instance may go to host. catalog_addresses are the n addresses that the catalog has for it: its
 * node's own address FIRST, then the service's and the tagged ones, as they stand there (NULL and "" are skipped). The
 * host must be one of them; names are compared without case, addresses by value.
 *
 * A loopback or unspecified address means the host that the *prober* is on, so that it is allowed only if the instance
 * is on it too: if node_is_local says so or the node's own address is loopback itself (an agent with -dev). That it is
 * in the catalog, as for a service that listens on 127.0.0.1 of another node, does not make it the instance's.
 */
bool consul_probe_host_allowed(const char *host, const char *const *catalog_addresses, size_t n, bool node_is_local);

/*
 * Whether an address or name leads to the host that uses it: loopback, localhost, and 0.0.0.0 and :: which connect()
 * takes for it. For whoever resolves a name that was allowed: unless loopback was allowed too, do not connect to such a
 * result.
 */
bool consul_probe_is_own_host(const char *host);

/*
 * In consul.h:
 *
 * consul_health_target() is consul_health_target_parse() for callers that only hand the target on: a URL, or
 * "host:port"
 * ("[v6]:port") for TCP and gRPC, malloc'd. CONSUL_HEALTH_NONE, with *ret_target untouched, when there is none or
 * memory is short.
 *
 * consul_probe_url_allowed() is consul_probe_host_allowed() for either form of such a target; false for what does not
 * parse as strictly as above.
 */

#endif
