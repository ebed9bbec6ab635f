/* Stands between a program and the names of hosts (LD_PRELOAD): `two-addresses.test` has the addresses that NAMES_ADDRESSES lists, in that
 * order, one a comma; all other names are the system's. `names.rs` is the other end.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

typedef int (*resolver)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found) {
    resolver real = (resolver)dlsym(RTLD_NEXT, "getaddrinfo");
    const char *listed = getenv("NAMES_ADDRESSES");
    if (!host || !listed || strcmp(host, "two-addresses.test") != 0)
        return real(host, port, hints, found);
    char addresses[256];
    strncpy(addresses, listed, sizeof addresses - 1);
    addresses[sizeof addresses - 1] = 0;
    struct addrinfo **end = found;
    char *rest = addresses;
    for (char *address; (address = strsep(&rest, ",")) != NULL;) {
        int error = real(address, port, hints, end);
        if (error)
            return error;
        /* freeaddrinfo takes one after the other, whoever has linked them. */
        while (*end)
            end = &(*end)->ai_next;
    }
    return 0;
}
