/* The benchmarks' load generator: keeps CONCURRENCY requests open and checks every answer to its end.
 *
 *   load PORT CONCURRENCY SECONDS REQUESTS BODIES LOG [HEADER]...
 *
 * BODIES is a file of request bodies, one JSON object a line: request i sends line i, from the top again after the
 * last. Starts no request after SECONDS or REQUESTS, whichever comes first, and waits ten seconds for the last ones.
 * An answer counts only when it is a 200 with a whole body: JSON with "choices", or events that end in [DONE].
 * Prints one JSON line. LOG ("-": none) gets a line per answer: body, latency ms, first event ms, overhead header ms.
 * A gap is the time between two arrivals of whole events within a stream; `gap_ms` is the longest of all.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CAPACITY (1 << 19)
#define MAX_ERRORS 50

typedef struct {
    int fd, raw_length, head, body_length, content_length, chunked, scanned, events;
    long body, request, chunk_left; /* chunk_left: bytes of the current chunk and its line end; -1: at a size line */
    double sent_s, first_s, last_s;
    char *raw, *text; /* as received; the body without its framing */
} Connection;

typedef struct {
    long body;
    float latency_ms, first_ms, overhead_ms;
} Answer;

static char **bodies, extra[8192], first_error[300];
static long body_count, limit, started, finished, errors, chunks;
static int port, poller, active;
static double end_s, longest_gap_s;
static Answer *answers;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void connect_to(Connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&address, sizeof address)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void send_next(Connection *c) {
    if (started >= limit || now_s() >= end_s || errors >= MAX_ERRORS) {
        active--;
        return;
    }
    static char request[1 << 17];
    c->body = started % body_count;
    const char *body = bodies[c->body];
    int count = snprintf(request, sizeof request,
                         "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept: */*\r\n"
                         "content-type: application/json\r\n%scontent-length: %zu\r\n\r\n%s",
                         port, extra, strlen(body), body);
    started++;
    c->raw_length = c->head = c->body_length = c->chunked = c->scanned = c->events = 0;
    c->content_length = -1;
    c->chunk_left = -1;
    c->first_s = 0;
    c->raw[0] = c->text[0] = 0;
    c->sent_s = now_s();
    if (count >= (int)sizeof request || send(c->fd, request, count, MSG_NOSIGNAL) != count) die("send");
}

static void fail(Connection *c, const char *why) {
    if (!errors++) snprintf(first_error, sizeof first_error, "%s: %.15s %.200s", why, c->raw, c->text);
    close(c->fd);
    connect_to(c);
    send_next(c);
}

static float header_ms(Connection *c, const char *name) {
    const char *at = strcasestr(c->raw, name);
    return at && at < c->raw + c->head ? atof(at + strlen(name)) : -1;
}

/* Reads the head once it is whole. False: not yet there. */
static int read_head(Connection *c) {
    char *end = memmem(c->raw, c->raw_length, "\r\n\r\n", 4);
    if (!end) return 0;
    *end = 0;
    char *length = strcasestr(c->raw, "\r\ncontent-length:");
    if (length) c->content_length = atoi(length + 17);
    c->chunked = strcasestr(c->raw, "\r\ntransfer-encoding: chunked") != 0;
    *end = '\r';
    c->head = end + 4 - c->raw;
    return 1;
}

/* Moves what has come of the body out of its framing, into `text`. True: the body is whole. */
static int unframe(Connection *c) {
    char *at = c->raw + c->head, *end = c->raw + c->raw_length;
    int whole = 0;
    while (at < end && !whole) {
        if (c->chunked && c->chunk_left < 0) {
            char *line = memmem(at, end - at, "\r\n", 2);
            if (!line) break;
            long size = strtol(at, 0, 16);
            if (size == 0) {
                whole = end - line >= 4; /* the empty trailer */
                break;
            }
            at = line + 2;
            c->chunk_left = size + 2;
        }
        long many = end - at;
        if (c->chunked && many > c->chunk_left) many = c->chunk_left;
        memcpy(c->text + c->body_length, at, many);
        c->body_length += many;
        at += many;
        if (c->chunked && (c->chunk_left -= many) == 0) {
            c->body_length -= 2; /* the chunk's line end */
            c->chunk_left = -1;
        }
    }
    /* what is left is part of a size line: keep it behind the head */
    memmove(c->raw + c->head, at, end - at);
    c->raw_length = c->head + (end - at);
    c->raw[c->raw_length] = c->text[c->body_length] = 0;
    return c->chunked ? whole : c->content_length >= 0 && c->body_length >= c->content_length;
}

/* Counts the events that became whole, and times their arrival. */
static void scan_events(Connection *c, double now) {
    int before = c->scanned;
    char *end;
    while ((end = strstr(c->text + c->scanned, "\n\n"))) {
        c->events += !strncmp(c->text + c->scanned, "data: {", 7);
        c->scanned = end + 2 - c->text;
    }
    if (c->scanned == before) return;
    if (!c->first_s) c->first_s = now;
    else if (now - c->last_s > longest_gap_s) longest_gap_s = now - c->last_s;
    c->last_s = now;
}

static const char *fault(Connection *c, int events) {
    static const char DONE[] = "data: [DONE]\n\n";
    int size = sizeof DONE - 1;
    if (strncmp(c->raw + 9, "200", 3)) return "not a 200";
    if (events) return c->body_length >= size && !strcmp(c->text + c->body_length - size, DONE) ? 0 : "no [DONE]";
    return c->text[0] == '{' && c->text[c->body_length - 1] == '}' && strstr(c->text, "\"choices\"") ? 0 : "no JSON";
}

static void receive(Connection *c) {
    int room = CAPACITY - 1 - (c->raw_length > c->body_length ? c->raw_length : c->body_length);
    int count = room > 0 ? recv(c->fd, c->raw + c->raw_length, room, MSG_DONTWAIT) : 0;
    if (count <= 0) return fail(c, "the answer ended early");
    double now = now_s();
    c->raw_length += count;
    c->raw[c->raw_length] = 0;
    if (!c->head && !read_head(c)) return;
    if (!c->chunked && c->content_length < 0) return fail(c, "neither content-length nor chunked");
    int whole = unframe(c), events = strncasecmp(c->text, "data:", 5) == 0;
    if (events) scan_events(c, now);
    else if (!c->first_s && c->body_length) c->first_s = now;
    if (!whole) return;
    const char *wrong = fault(c, events);
    if (wrong) return fail(c, wrong);
    Answer one = {c->body, (now - c->sent_s) * 1e3, (c->first_s - c->sent_s) * 1e3, 0};
    one.overhead_ms = header_ms(c, "\r\nx-pointsman-overhead-ms:");
    answers[finished++] = one;
    chunks += c->events;
    send_next(c);
}

static void read_bodies(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) die(path);
    char *line = 0;
    size_t size = 0;
    ssize_t length;
    while ((length = getline(&line, &size, file)) > 0) {
        if (line[length - 1] == '\n') line[--length] = 0;
        if (!length) continue;
        if (!(bodies = realloc(bodies, (body_count + 1) * sizeof *bodies))) die("memory");
        bodies[body_count++] = strdup(line);
    }
    free(line);
    fclose(file);
    if (!body_count) die("no bodies");
}

static void write_log(const char *path) {
    if (!strcmp(path, "-")) return;
    FILE *file = fopen(path, "w");
    if (!file) die(path);
    for (long i = 0; i < finished; i++)
        fprintf(file, "%ld %.4f %.4f %.4f\n", answers[i].body, answers[i].latency_ms, answers[i].first_ms,
                answers[i].overhead_ms);
    fclose(file);
}

static int by_latency(const void *a, const void *b) {
    float x = ((const Answer *)a)->latency_ms, y = ((const Answer *)b)->latency_ms;
    return (x > y) - (x < y);
}

static int by_first(const void *a, const void *b) {
    float x = ((const Answer *)a)->first_ms, y = ((const Answer *)b)->first_ms;
    return (x > y) - (x < y);
}

static Answer at_share(double share) {
    static const Answer none = {0, -1, -1, -1};
    long i = share * finished;
    return finished ? answers[i < finished ? i : finished - 1] : none;
}

static void print_summary(double elapsed_s) {
    for (char *p = first_error; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < 32 || (unsigned char)*p > 126) *p = '\'';
    qsort(answers, finished, sizeof *answers, by_latency);
    printf("{\"requests\": %ld, \"seconds\": %.4f, \"rps\": %.2f, ", finished, elapsed_s, finished / elapsed_s);
    printf("\"p50_ms\": %.4f, \"p95_ms\": %.4f, \"p99_ms\": %.4f, ", at_share(.5).latency_ms,
           at_share(.95).latency_ms, at_share(.99).latency_ms);
    qsort(answers, finished, sizeof *answers, by_first);
    printf("\"first_p50_ms\": %.4f, \"first_p99_ms\": %.4f, ", at_share(.5).first_ms, at_share(.99).first_ms);
    printf("\"chunks\": %ld, \"chunks_per_s\": %.1f, \"gap_ms\": %.3f, ", chunks, chunks / elapsed_s,
           longest_gap_s * 1e3);
    printf("\"errors\": %ld, \"error\": \"%s\"}\n", errors, first_error);
}

int main(int count, char **words) {
    if (count < 7) {
        fprintf(stderr, "usage: load PORT CONCURRENCY SECONDS REQUESTS BODIES LOG [HEADER]...\n");
        return 2;
    }
    port = atoi(words[1]);
    int concurrency = atoi(words[2]);
    double begin_s;
    limit = atol(words[4]);
    read_bodies(words[5]);
    for (int i = 7; i < count; i++)
        snprintf(extra + strlen(extra), sizeof extra - strlen(extra), "%s\r\n", words[i]);
    answers = calloc(limit + 1, sizeof *answers);
    poller = epoll_create1(0);
    Connection *all = calloc(concurrency, sizeof *all);
    for (int i = 0; i < concurrency; i++) {
        all[i].raw = malloc(CAPACITY);
        all[i].text = malloc(2 * CAPACITY);
        connect_to(&all[i]);
    }
    begin_s = now_s();
    end_s = begin_s + atof(words[3]);
    active = concurrency;
    for (int i = 0; i < concurrency; i++) send_next(&all[i]);
    struct epoll_event ready[256];
    while (active > 0 && now_s() < end_s + 10) {
        int many = epoll_wait(poller, ready, 256, 200);
        for (int i = 0; i < many; i++) receive(ready[i].data.ptr);
    }
    double elapsed_s = now_s() - begin_s;
    if (active > 0) {
        if (!errors) snprintf(first_error, sizeof first_error, "no answer within ten seconds of the end");
        errors += active;
    }
    write_log(words[6]);
    print_summary(elapsed_s);
    return 0;
}
