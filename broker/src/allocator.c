/* mimalloc keeps memory that has become free for a second, and then waits for more to become free before it gives any back. So after a
 * crowd has left, or the log was opened, much stayed for as long as little happened: with a million topics some 20 MB after the one, and
 * 80 after the other. This gives back at once; MIMALLOC_PURGE_DELAY, in milliseconds, still says otherwise. */
#include <mimalloc.h>

/* Tests and tools that link the broker without the allocator do without this, too. */
#pragma weak mi_option_set_default

__attribute__((constructor)) static void hark_gives_back_at_once(void) {
    if (mi_option_set_default) {
        mi_option_set_default(mi_option_purge_delay, 0);
    }
}
