/* The benchmarks' upstream: an OpenAI server that costs next to nothing, so that what is measured is the gateway.
 *
 *   upstream SECONDS      listens on a free loopback port, prints it, and ends by itself after SECONDS
 *
 * Answers a chat completion at once, or, for "stream": true, as server-sent events, one write each.
 * The model's name sets the stream: "x-c50-p20" is 50 chunks, 20 ms apart (default: 50 at once). Where the
 * request asks stream_options.include_usage, one more chunk carries the usage. One thread, one epoll.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CAPACITY (1 << 20)
#define MAX_FD 4096

#define ID "\"id\":\"chatcmpl-bench-0123456789abcdef\",\"created\":1760000000,\"model\":\"bench-upstream\""
#define USAGE "{\"prompt_tokens\":64,\"completion_tokens\":48,\"total_tokens\":112}"
static const char COMPLETION[] =
    "{" ID ",\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
    "\"Both trains meet five hours after noon, three hundred and sixty kilometres down the line: the second one "
    "closes the gap of one hundred and twenty kilometres at thirty kilometres per hour.\",\"refusal\":null},"
    "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":" USAGE ",\"system_fingerprint\":\"fp_bench\"}";
static const char MODELS[] = "{\"object\":\"list\",\"data\":[{\"id\":\"bench-upstream\",\"object\":\"model\"}]}";

typedef struct {
    int fd, length, streaming, chunks, sent, wants_usage;
    double pace_s, due_s;
    char *buffer;
} Connection;

static Connection *connections[MAX_FD];
static int highest = -1;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Writes all or fails; a full socket buffer is waited for, since the streams here are far smaller than one. */
static int write_all(int fd, const char *bytes, int count) {
    while (count > 0) {
        int sent = send(fd, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent <= 0) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            if (poll(&writable, 1, 5000) <= 0 || writable.revents & (POLLERR | POLLHUP)) return -1;
            continue;
        }
        bytes += sent;
        count -= sent;
    }
    return 0;
}

static int write_json(int fd, const char *body) {
    char answer[2048];
    int count = snprintf(answer, sizeof answer,
                         "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s",
                         (int)strlen(body), body);
    return write_all(fd, answer, count);
}

static int write_event(int fd, const char *event) {
    char framed[700];
    int count = snprintf(framed, sizeof framed, "%x\r\n%s\r\n", (int)strlen(event), event);
    return write_all(fd, framed, count);
}

static int write_chunk(Connection *c) {
    static const char HEAD[] = "data: {" ID ",\"object\":\"chat.completion.chunk\",\"system_fingerprint\":\"fp_bench\",";
    const char *usage = c->wants_usage ? ",\"usage\":null" : "";
    char event[600], delta[120] = "";
    int last = c->sent == c->chunks - 1;
    if (c->sent == 0) snprintf(delta, sizeof delta, "\"role\":\"assistant\",\"content\":\"\"");
    else if (!last) snprintf(delta, sizeof delta, "\"content\":\" word%d\"", c->sent);
    snprintf(event, sizeof event,
             "%s\"choices\":[{\"index\":0,\"delta\":{%s},\"logprobs\":null,\"finish_reason\":%s}]%s}\n\n", HEAD, delta,
             last ? "\"stop\"" : "null", usage);
    if (write_event(c->fd, event)) return -1;
    c->sent++;
    if (!last) return 0;
    c->streaming = 0;
    if (c->wants_usage) {
        snprintf(event, sizeof event, "%s\"choices\":[],\"usage\":%s}\n\n", HEAD, USAGE);
        if (write_event(c->fd, event)) return -1;
    }
    return write_event(c->fd, "data: [DONE]\n\n") || write_all(c->fd, "0\r\n\r\n", 5);
}

/* Sends what is due: everything where there is no pace. */
static int advance(Connection *c, double now) {
    while (c->streaming && c->due_s <= now) {
        if (write_chunk(c)) return -1;
        c->due_s += c->pace_s;
    }
    return 0;
}

static int number_after(const char *text, const char *mark, int otherwise) {
    const char *found = strstr(text, mark);
    return found ? atoi(found + strlen(mark)) : otherwise;
}

static int is_true(const char *body, const char *key) {
    const char *at = strstr(body, key);
    if (!at) return 0;
    at += strlen(key);
    return *(at + strspn(at, " :")) == 't';
}

static int answer(Connection *c, const char *head, const char *body) {
    if (!strncmp(head, "GET ", 4)) return write_json(c->fd, MODELS);
    if (!is_true(body, "\"stream\"")) return write_json(c->fd, COMPLETION);
    char model[120] = "";
    const char *at = strstr(body, "\"model\"");
    if (at) sscanf(at + 7, " : \"%119[^\"]", model);
    c->chunks = number_after(model, "-c", 50);
    if (c->chunks < 2) c->chunks = 2;
    c->pace_s = number_after(model, "-p", 0) / 1e3;
    c->wants_usage = is_true(body, "\"include_usage\"");
    c->sent = 0;
    c->streaming = 1;
    c->due_s = now_s();
    static const char HEADERS[] =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    return write_all(c->fd, HEADERS, sizeof HEADERS - 1) || advance(c, c->due_s);
}

/* Answers every whole request in the buffer. Bodies come with a content-length: our clients all send one. */
static int serve(Connection *c) {
    char *end;
    while (!c->streaming && (end = memmem(c->buffer, c->length, "\r\n\r\n", 4))) {
        *end = 0;
        char *field = strcasestr(c->buffer, "\r\ncontent-length:");
        int head = end + 4 - c->buffer, total = head + (field ? atoi(field + 17) : 0);
        if (total >= CAPACITY) return -1;
        if (c->length < total) {
            *end = '\r';
            return 0;
        }
        char kept = c->buffer[total];
        c->buffer[total] = 0;
        int failed = answer(c, c->buffer, c->buffer + head);
        c->buffer[total] = kept;
        c->length -= total;
        memmove(c->buffer, c->buffer + total, c->length);
        if (failed) return -1;
    }
    return 0;
}

static int receive(Connection *c) {
    int count = recv(c->fd, c->buffer + c->length, CAPACITY - 1 - c->length, MSG_DONTWAIT);
    if (count <= 0) return -1; /* the caller has gone: the stream ends here */
    c->length += count;
    c->buffer[c->length] = 0;
    return serve(c);
}

static void accept_one(int listener, int events) {
    int fd = accept(listener, 0, 0), on = 1;
    if (fd < 0 || fd >= MAX_FD) {
        if (fd >= 0) close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    Connection *c = calloc(1, sizeof *c);
    c->fd = fd;
    c->buffer = malloc(CAPACITY);
    connections[fd] = c;
    if (fd > highest) highest = fd;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(events, EPOLL_CTL_ADD, fd, &event);
}

static void drop(int fd) {
    close(fd);
    free(connections[fd]->buffer);
    free(connections[fd]);
    connections[fd] = 0;
}

/* Sends what paced streams owe; returns the milliseconds until the next one is due, at most 200. */
static int advance_paced(void) {
    double now = now_s(), next = now + .2;
    for (int fd = 0; fd <= highest; fd++) {
        Connection *c = connections[fd];
        if (!c || !c->streaming) continue;
        if (advance(c, now) || (!c->streaming && serve(c))) {
            drop(fd);
            continue;
        }
        if (c->streaming && c->due_s < next) next = c->due_s;
    }
    return (int)((next - now) * 1e3) + (next > now);
}

static int listen_free(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(fd, (void *)&address, size) || listen(fd, 1024)) {
        perror("listen");
        exit(1);
    }
    getsockname(fd, (void *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int count, char **words) {
    if (count != 2 || atof(words[1]) <= 0) {
        fprintf(stderr, "usage: upstream SECONDS\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    double end = now_s() + atof(words[1]);
    int listener = listen_free(), events = epoll_create1(0);
    struct epoll_event incoming = {.events = EPOLLIN, .data.fd = listener}, ready[256];
    epoll_ctl(events, EPOLL_CTL_ADD, listener, &incoming);
    while (now_s() < end) {
        int many = epoll_wait(events, ready, 256, advance_paced());
        for (int i = 0; i < many; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener) accept_one(listener, events);
            else if (connections[fd] && receive(connections[fd])) drop(fd);
        }
    }
    return 0;
}
