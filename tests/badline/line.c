// A bad line: two network namespaces, a TUN device in each, and between them a queue each way that delays, loses, reorders, doubles and drops
// packets. `line.rs` compiles and runs this program, and tells it what to do.
//
//     line SEED
//
// It makes both namespaces itself. The near one has 10.77.0.1 (clients), the far one 10.77.0.2 (the broker). It says
//
//     up FD-OF-NEAR FD-OF-FAR        (namespaces, as /proc/PID/fd/FD)
//
// and then reads orders from stdin, a line each, and answers each with a line:
//
//     up|down|both KEY VALUE         up: from near to far. Keys: delay MS, loss PERCENT, reorder PERCENT, late MS (what a reordered packet
//                                    comes later), double PERCENT, rate BYTES-A-SECOND (0: no limit), queue BYTES (what waits where there is
//                                    a rate; more is dropped), mtu BYTES (larger ones vanish without a word; 0: none), drop 0|1 (a black hole)
//     clear                          no delay, no loss, nothing
//     seed N                         what is drawn begins anew
//     forget                         every connection that there is loses its state: its packets vanish, both ways, until its port sends a SYN
//     stat                           answers `up IN OUT DROPPED BYTES down IN OUT DROPPED BYTES begun N`: N connections, each once,
//                                    however often its SYN is sent
//     syns                           answers `syns MS ADDRESS MS ADDRESS …`: when clients began connections since this was asked last (on a clock of
//                                    its own) and where to; the first 256
//
// It ends at the end of its stdin, whatever becomes of who started it, and then kills what still runs in the far namespace. The namespaces have
// no names: they end with the last process in them, and the devices with the namespaces.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { UP, DOWN };

#define MAX_PACKET 65536
#define PACKETS_A_TURN 64
#define DEVICE_QUEUE 10000

struct packet {
    uint64_t due, number; // when it goes on, and what breaks a tie
    int bytes;
    unsigned char *data;
};

struct direction {
    // What is asked of it.
    double delay_ms, loss, reorder, late_ms, doubled, rate;
    long queue_bytes;
    int mtu, drop;
    // Packets on their way, a heap by the time they are due.
    struct packet *heap;
    int packets, room;
    // Where there is a rate: when the line is free again, and the bytes that wait for it.
    uint64_t free_at;
    long waiting_bytes;
    unsigned long in, out, dropped, bytes;
};

static struct direction directions[2];
static int device[2];
static uint64_t packet_number;
static uint64_t random_state;
static unsigned long connections;
// By the client's port.
static unsigned char known[65536], lost[65536];
static unsigned first_seq[65536];
// Connections that clients began.
#define SYNS_KEPT 256
static struct {
    uint64_t time;
    unsigned char to[4];
} begun[SYNS_KEPT];
static int begun_count;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

// splitmix64; gives 0 to 100.
static double draw(void) {
    uint64_t z = random_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (double)(z >> 11) / (double)(1ull << 53) * 100;
}

static int is_before(const struct packet *a, const struct packet *b) {
    return a->due != b->due ? a->due < b->due : a->number < b->number;
}

static void swap(struct packet *a, struct packet *b) {
    struct packet held = *a;
    *a = *b;
    *b = held;
}

static void push(struct direction *way, struct packet packet) {
    if (way->packets == way->room) {
        way->room = way->room ? way->room * 2 : 256;
        way->heap = realloc(way->heap, way->room * sizeof(struct packet));
        if (!way->heap) fail("realloc");
    }
    int at = way->packets++;
    way->heap[at] = packet;
    for (; at && is_before(&way->heap[at], &way->heap[(at - 1) / 2]); at = (at - 1) / 2)
        swap(&way->heap[at], &way->heap[(at - 1) / 2]);
}

static struct packet pop(struct direction *way) {
    struct packet first = way->heap[0];
    way->heap[0] = way->heap[--way->packets];
    for (int at = 0;;) {
        int child = 2 * at + 1;
        if (child >= way->packets) break;
        if (child + 1 < way->packets && is_before(&way->heap[child + 1], &way->heap[child])) child++;
        if (!is_before(&way->heap[child], &way->heap[at])) break;
        swap(&way->heap[child], &way->heap[at]);
        at = child;
    }
    return first;
}

static void note_begun(const unsigned char *to) {
    if (begun_count == SYNS_KEPT) return;
    begun[begun_count].time = now();
    memcpy(begun[begun_count++].to, to, 4);
}

// Whether the packet's connection has lost its state. Takes the connection down if it is new.
static int is_lost(int way, const unsigned char *data, int bytes) {
    int head = (data[0] & 15) * 4;
    if (data[0] >> 4 != 4 || data[9] != IPPROTO_TCP || bytes < head + 20) return 0;
    const unsigned char *tcp = data + head;
    int port = way == UP ? tcp[0] << 8 | tcp[1] : tcp[2] << 8 | tcp[3];
    int begins = way == UP && (tcp[13] & 0x12) == 0x02; // SYN without ACK
    if (begins) {
        unsigned seq = (unsigned)tcp[4] << 24 | tcp[5] << 16 | tcp[6] << 8 | tcp[7];
        // One that is sent again, where the first was lost, is no new connection.
        if (!known[port] || first_seq[port] != seq) {
            connections++;
            note_begun(data + 16);
        }
        first_seq[port] = seq;
        lost[port] = 0;
    }
    known[port] = 1;
    return lost[port];
}

static void take(int which, const unsigned char *data, int bytes) {
    struct direction *way = &directions[which];
    way->in++;
    int vanishes = is_lost(which, data, bytes) || way->drop || (way->mtu && bytes > way->mtu);
    if (vanishes || (way->loss > 0 && draw() < way->loss)) {
        way->dropped++;
        return;
    }
    uint64_t due = now();
    if (way->rate > 0) {
        if (way->waiting_bytes + bytes > way->queue_bytes) {
            way->dropped++;
            return;
        }
        if (way->free_at < due) way->free_at = due;
        way->free_at += (uint64_t)(bytes / way->rate * 1e9);
        due = way->free_at;
    }
    due += (uint64_t)(way->delay_ms * 1e6);
    if (way->reorder > 0 && draw() < way->reorder) due += (uint64_t)(way->late_ms * 1e6);
    int copies = way->doubled > 0 && draw() < way->doubled ? 2 : 1;
    while (copies--) {
        struct packet packet = {due, packet_number++, bytes, malloc(bytes)};
        if (!packet.data) fail("malloc");
        memcpy(packet.data, data, bytes);
        way->waiting_bytes += bytes;
        push(way, packet);
    }
}

// Passes on what is due; gives when the next is.
static uint64_t pass_on(int which, uint64_t time) {
    struct direction *way = &directions[which];
    while (way->packets && way->heap[0].due <= time) {
        struct packet packet = pop(way);
        way->waiting_bytes -= packet.bytes;
        // What was on its way when the hole opened falls into it as well.
        if (!way->drop && write(device[!which], packet.data, packet.bytes) == packet.bytes) {
            way->out++;
            way->bytes += packet.bytes;
        } else {
            way->dropped++;
        }
        free(packet.data);
    }
    return way->packets ? way->heap[0].due : UINT64_MAX;
}

static void forget(void) {
    for (int port = 0; port < 65536; port++) {
        lost[port] |= known[port];
        known[port] = 0;
    }
}

static void clear(struct direction *way) {
    way->delay_ms = way->loss = way->reorder = way->doubled = way->rate = 0;
    way->late_ms = 30;
    way->queue_bytes = 65536;
    way->mtu = way->drop = 0;
    way->free_at = 0;
}

static int set(struct direction *way, const char *key, double value) {
    if (!strcmp(key, "delay")) way->delay_ms = value;
    else if (!strcmp(key, "loss")) way->loss = value;
    else if (!strcmp(key, "reorder")) way->reorder = value;
    else if (!strcmp(key, "late")) way->late_ms = value;
    else if (!strcmp(key, "double")) way->doubled = value;
    else if (!strcmp(key, "rate")) way->rate = value, way->free_at = 0;
    else if (!strcmp(key, "queue")) way->queue_bytes = value;
    else if (!strcmp(key, "mtu")) way->mtu = value;
    else if (!strcmp(key, "drop")) way->drop = value;
    else return 0;
    return 1;
}

static void obey(const char *order) {
    char which[16] = "", key[16] = "";
    double value = 0;
    unsigned long long seed;
    int words = sscanf(order, "%15s %15s %lf", which, key, &value);
    int both = !strcmp(which, "both"), up = both || !strcmp(which, "up"), down = both || !strcmp(which, "down");
    if (words == 3 && (up || down)) {
        int understood = (!up || set(&directions[UP], key, value)) && (!down || set(&directions[DOWN], key, value));
        puts(understood ? "ok" : "no such key");
    } else if (!strcmp(which, "clear")) {
        clear(&directions[UP]);
        clear(&directions[DOWN]);
        puts("ok");
    } else if (sscanf(order, "seed %llu", &seed) == 1) {
        random_state = seed;
        puts("ok");
    } else if (!strcmp(which, "forget")) {
        forget();
        puts("ok");
    } else if (!strcmp(which, "syns")) {
        printf("syns");
        for (int at = 0; at < begun_count; at++) {
            unsigned char *to = begun[at].to;
            printf(" %.3f %d.%d.%d.%d", begun[at].time / 1e6, to[0], to[1], to[2], to[3]);
        }
        puts("");
        begun_count = 0;
    } else if (!strcmp(which, "stat")) {
        struct direction *u = &directions[UP], *d = &directions[DOWN];
        printf("up %lu %lu %lu %lu down %lu %lu %lu %lu begun %lu\n", u->in, u->out, u->dropped, u->bytes, d->in, d->out, d->dropped, d->bytes,
               connections);
    } else {
        puts("no such order");
    }
    fflush(stdout);
}

static void configure(int control, struct ifreq *request, unsigned long what, const char *name) {
    if (ioctl(control, what, request) < 0) fail(name);
}

static void bring_up(int control, const char *name) {
    struct ifreq request = {0};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    configure(control, &request, SIOCGIFFLAGS, "SIOCGIFFLAGS");
    request.ifr_flags |= IFF_UP | IFF_RUNNING;
    configure(control, &request, SIOCSIFFLAGS, "SIOCSIFFLAGS");
}

// Makes a namespace with a loopback device and one end of the line. Gives the end, and in `space` the namespace.
static int make_end(const char *address, int *space) {
    if (unshare(CLONE_NEWNET) < 0) fail("a network namespace (it needs root)");
    *space = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (*space < 0 || control < 0) fail("a socket");
    if (tun < 0) fail("/dev/net/tun");
    bring_up(control, "lo");

    struct ifreq request = {0};
    strcpy(request.ifr_name, "line");
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    configure(tun, &request, TUNSETIFF, "TUNSETIFF");
    struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
    memset(in, 0, sizeof *in);
    in->sin_family = AF_INET;
    inet_pton(AF_INET, address, &in->sin_addr);
    configure(control, &request, SIOCSIFADDR, "SIOCSIFADDR");
    inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
    configure(control, &request, SIOCSIFNETMASK, "SIOCSIFNETMASK");
    request.ifr_qlen = DEVICE_QUEUE; // or a burst would be lost before the line has it
    configure(control, &request, SIOCSIFTXQLEN, "SIOCSIFTXQLEN");
    bring_up(control, "line");
    close(control);
    return tun;
}

// Kills every process whose network namespace is `space`, but for this one.
static void kill_all_in(int space) {
    struct stat wanted, found;
    if (fstat(space, &wanted) < 0) return;
    DIR *processes = opendir("/proc");
    if (!processes) return;
    for (struct dirent *entry; (entry = readdir(processes));) {
        char path[64];
        int pid = atoi(entry->d_name);
        if (pid <= 0 || pid == getpid()) continue;
        snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
        if (stat(path, &found) == 0 && found.st_ino == wanted.st_ino && found.st_dev == wanted.st_dev) kill(pid, SIGKILL);
    }
    closedir(processes);
}

int main(int count, char **arguments) {
    if (count != 2) {
        fputs("line SEED\n", stderr);
        return 2;
    }
    random_state = strtoull(arguments[1], 0, 10);
    // Ctrl-C reaches everybody at the terminal; this one ends when its stdin does, and takes the others along.
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    // A line does not wait for a processor.
    if (setpriority(PRIO_PROCESS, 0, -20) < 0) fail("setpriority");
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), near, far;
    device[UP] = make_end("10.77.0.1", &near);
    device[DOWN] = make_end("10.77.0.2", &far);
    if (setns(home, CLONE_NEWNET) < 0) fail("setns");
    clear(&directions[UP]);
    clear(&directions[DOWN]);
    printf("up %d %d\n", near, far);
    fflush(stdout);

    static unsigned char data[MAX_PACKET];
    static char orders[4096];
    size_t order_bytes = 0;
    for (;;) {
        uint64_t time = now(), next = time + 1000000000ull;
        for (int which = UP; which <= DOWN; which++) {
            uint64_t due = pass_on(which, time);
            if (due < next) next = due;
        }
        time = now();
        uint64_t wait = next > time ? next - time : 0;
        struct timespec timeout = {wait / 1000000000ull, wait % 1000000000ull};
        struct pollfd polled[3] = {{device[UP], POLLIN, 0}, {device[DOWN], POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
        if (ppoll(polled, 3, &timeout, 0) < 0 && errno != EINTR) fail("ppoll");
        for (int which = UP; which <= DOWN; which++) {
            int packets = polled[which].revents & POLLIN ? PACKETS_A_TURN : 0;
            while (packets--) {
                ssize_t bytes = read(device[which], data, sizeof data);
                if (bytes <= 0) break;
                take(which, data, bytes);
            }
        }
        if (!polled[2].revents) continue;
        ssize_t bytes = read(STDIN_FILENO, orders + order_bytes, sizeof orders - 1 - order_bytes);
        if (bytes <= 0) break;
        orders[order_bytes += bytes] = 0;
        for (char *end; (end = strchr(orders, '\n'));) {
            *end = 0;
            obey(orders);
            order_bytes -= end + 1 - orders;
            memmove(orders, end + 1, order_bytes + 1);
        }
    }
    kill_all_in(far);
    return 0;
}
