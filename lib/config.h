/*
 * Where Consul is and how to talk to it: the CONSUL_* environment as the consul CLI has it, and the address that a
 * command line gives instead. What consul.h declares of it is implemented here, too; this is the contract in full.
 *
 * Pure but for reading the token file: no network, no globals besides the environment. A configuration belongs to one
 * thread while it is being set up, and is only read after that.
 *
 * The rules are those of Consul's own Go client (hashicorp/consul, api/api.go, defaultConfig and NewClient), except
 * that what it silently guesses is an error here: a boolean that does not parse, half of a client certificate, and
 * anything that could not be sent as it stands.
 *
 * Failing functions leave *config as it was and store one line for the user in *ret_error, without a secret in it,
 * which the caller frees (NULL if memory is short). They return -EINVAL for a bad value, -ENOMEM, or what opening and
 * reading the token file gave (-EFBIG: larger than a token can be).
 *
 * consul_config_init_from_env(): *config need not be initialised. A variable set to the empty string counts as not set;
 * the defaults are http://127.0.0.1:8500 with TLS verified. CONSUL_HTTP_TOKEN_FILE wins over CONSUL_HTTP_TOKEN unless
 * it is empty. getenv(), the default, is not safe while another thread changes the environment.
 *
 * consul_config_set_address(): "host", "host:port", "[v6]:port", "http://…", "https://…", all of them with an optional
 * "/prefix", or "unix:///absolute/path", for which host_port becomes "localhost". As with the consul CLI, a host
 * without a port means port 80, or 443 with https, not 8500; https in the address turns TLS on, http does not turn
 * CONSUL_HTTP_SSL off.
 *
 * consul_config_set_token_file(): without the white space around what is in the file. Nothing in it leaves the token as
 * it is, as in the consul CLI. May block where opening and reading that file can.
 *
 * consul_config_clear(): leaves an all-zero struct. Takes NULL and all-zero.
 */
#ifndef CONSUL_CONFIG_H
#define CONSUL_CONFIG_H

#include "consul.h"

/* Replaces the datacenter that dc= names; NULL or "" for the agent's own. */
int consul_config_set_datacenter(struct consul_config *config, const char *datacenter,
                                 char **ret_error) CONSUL_WARN_UNUSED;

#endif
