/* See internal.h. Connections: what is on its way, when it arrives, and what a client does at its end. */

#include "internal.h"

#include <string.h>

size_t ring_put(Ring *ring, const uint8_t *data, size_t len_bytes)
{
    size_t i = 0, at, n;
    while (i < len_bytes) {
        at = ring->tail % SIM_RING;
        n = SIM_RING - at < len_bytes - i ? SIM_RING - at : len_bytes - i;
        memcpy(ring->bytes + at, data + i, n);
        ring->tail += (uint32_t)n;
        i += n;
    }
    return len_bytes;
}

size_t ring_get(Ring *ring, uint8_t *data, size_t len_bytes)
{
    size_t i = 0, at, n;
    while (i < len_bytes) {
        at = ring->head % SIM_RING;
        n = SIM_RING - at < len_bytes - i ? SIM_RING - at : len_bytes - i;
        memcpy(data + i, ring->bytes + at, n);
        ring->head += (uint32_t)n;
        i += n;
    }
    return len_bytes;
}

/* The engine, or its kernel, has answered with RST: what the client had not received may be gone. */
void link_cut(Link *link)
{
    link->is_cut = 1;
    link->out.tail = link->out.head + sim_below(link->out.tail - link->out.head + 1);
}

/* Let what is due arrive. */
void link_arrive(Link *link)
{
    int before = link->has_fin | link->has_reset;
    while (link->first != link->last && link->segments[link->first % SEGMENTS].at_us <= sim.now_us) {
        link->arrived = link->segments[link->first % SEGMENTS].end;
        link->first++;
        if (link->is_closed)
            link_cut(link);
    }
    if (link->fin_us <= sim.now_us)
        link->has_fin = 1;
    if (link->reset_us <= sim.now_us)
        link->has_reset = 1;
    if (!before && (link->has_fin || link->has_reset))
        sim_trace("  client %d: %s arrives", (int)(link - sim.links), link->has_reset ? "RST" : "FIN");
}

static uint64_t later(uint64_t than_us)
{
    uint64_t at = sim.now_us + 1 + sim_below(sim.weather.latency_us);
    return at > than_us ? at : than_us;
}

/* What one client sends arrives in order. */
uint64_t link_after_all(const Link *link)
{
    uint64_t last = 0;
    if (link->first != link->last)
        last = link->segments[(link->last - 1) % SEGMENTS].at_us;
    if (link->at_us > last)
        last = link->at_us;
    if (link->fin_us != SIM_NEVER && link->fin_us > last)
        last = link->fin_us;
    return later(last);
}

void client_connect(int client)
{
    Link *link = &sim.links[client];
    link->is_made = 1;
    link->fd = -1;
    link->is_accepted = link->is_closed = 0;
    link->in.head = link->in.tail = link->out.head = link->out.tail = 0;
    link->arrived = link->first = link->last = 0;
    link->fin_us = link->reset_us = SIM_NEVER;
    link->has_fin = link->has_reset = link->is_error_told = 0;
    link->is_shut = link->is_cut = link->is_deaf = 0;
    link->at_us = later(0);
    sim.backlog[sim.n_backlog++] = client;
}

size_t client_room(int client)
{
    const Link *link = &sim.links[client];
    uint32_t used = link->in.tail - link->in.head;
    if (link->is_cut || link->is_closed || link->fin_us != SIM_NEVER || link->reset_us != SIM_NEVER)
        return 0;
    if (link->last - link->first == SEGMENTS || used >= sim.weather.window_bytes)
        return 0;
    return sim.weather.window_bytes - used;
}

size_t client_write(int client, const uint8_t *data, size_t len_bytes)
{
    Link *link = &sim.links[client];
    size_t room = client_room(client), sent = 0, n;
    if (room > len_bytes)
        room = len_bytes;
    while (sent < room && link->last - link->first < SEGMENTS) {
        n = 1 + sim_below(sim.weather.segment_bytes);
        if (n > room - sent)
            n = room - sent;
        ring_put(&link->in, data + sent, n);
        sent += n;
        link->segments[link->last % SEGMENTS].at_us = link_after_all(link);
        link->segments[link->last % SEGMENTS].end = link->in.tail;
        link->last++;
    }
    return sent;
}

size_t client_unread(int client)
{
    return sim.links[client].out.tail - sim.links[client].out.head;
}

size_t client_read(int client, uint8_t *data, size_t len_bytes)
{
    size_t n = client_unread(client);
    return ring_get(&sim.links[client].out, data, n < len_bytes ? n : len_bytes);
}

SimEnd client_ended(int client)
{
    Link *link = &sim.links[client];
    link_arrive(link);
    if (link->is_cut)
        return SIM_RESET;
    return link->is_shut || link->is_closed ? SIM_EOF : SIM_OPEN;
}

void client_finish(int client)
{
    Link *link = &sim.links[client];
    if (link->fin_us == SIM_NEVER && link->reset_us == SIM_NEVER)
        link->fin_us = link_after_all(link);
}

void client_reset(int client)
{
    Link *link = &sim.links[client];
    if (link->reset_us == SIM_NEVER)
        link->reset_us = link_after_all(link);
    link->is_deaf = 1;
    link->out.head = link->out.tail;
}

void client_leave(int client)
{
    Link *link = &sim.links[client];
    /* With something unread close() sends RST instead of FIN. */
    if (client_unread(client) != 0 || link->is_deaf) {
        client_reset(client);
        return;
    }
    client_finish(client);
    link->is_deaf = 1;
}

uint64_t network_next_arrival(void)
{
    uint64_t next = SIM_NEVER, one;
    Link *link;
    int i;
    for (i = 0; i < SIM_LINKS; i++) {
        link = &sim.links[i];
        if (!link->is_made)
            continue;
        if (!link->is_accepted && link->at_us > sim.now_us && link->at_us < next)
            next = link->at_us;
        if (link->first != link->last) {
            one = link->segments[link->first % SEGMENTS].at_us;
            if (one < next && one > sim.now_us)
                next = one;
        }
        if (link->fin_us > sim.now_us && link->fin_us < next)
            next = link->fin_us;
        if (link->reset_us > sim.now_us && link->reset_us < next)
            next = link->reset_us;
    }
    return next;
}
