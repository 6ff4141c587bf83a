/* Base64 as RFC 4648 section 4 has it, with padding: the form of values in Consul's JSON. */
#ifndef CONSUL_LIB_BASE64_H
#define CONSUL_LIB_BASE64_H

#include <stddef.h>

/* Room for the encoded text, without a NUL. */
static inline size_t base64_encoded_len(size_t len) { return (len + 2) / 3 * 4; }

/* Writes base64_encoded_len(len) characters. */
void base64_encode(const void *data, size_t len, char *out);

/* `out` has room for text_len / 4 * 3 bytes. 0 and the decoded length, or -EINVAL for anything but strict base64. */
int base64_decode(const char *text, size_t text_len, void *out, size_t *ret_len);

#endif
