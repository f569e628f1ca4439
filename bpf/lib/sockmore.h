/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* UDP sockets that talk to more than one frontend. */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "maps.h"
#include "service.h"
#include "sockaddr.h"
#include "sockpick.h"
#include "types.h"

/* Keeps a further frontend of a socket, both ways round. */
static __always_inline void sock_remember_more(__u64 cookie, const struct sock_addr *frontend,
					       const struct sock_addr *backend, __u32 id,
					       __u32 service)
{
	struct sock_key key = { .cookie = cookie, .addr = frontend->addr,
				.port = frontend->port, .kind = SOCK_FRONTEND };
	struct sock_flow flow = { .addr = backend->addr, .port = backend->port,
				  .id = id, .seen = service_ticks(), .service = service };

	bpf_map_update_elem(&sock_flows, &key, &flow, BPF_ANY);
	key.addr = backend->addr;
	key.port = backend->port;
	key.kind = SOCK_BACKEND;
	flow.addr = frontend->addr;
	flow.port = frontend->port;
	bpf_map_update_elem(&sock_flows, &key, &flow, BPF_ANY);
}

/* Does the socket reach this backend for another frontend already? */
static __always_inline bool sock_clashes(const struct sock_peer *peer, __u64 cookie,
					 const struct sock_addr *frontend, const struct sock_addr *backend)
{
	struct sock_key key = { .cookie = cookie, .addr = backend->addr,
				.port = backend->port, .kind = SOCK_BACKEND };
	const struct sock_flow *flow;

	if (sock_is(backend, &peer->backend, peer->backend_port))
		return true;
	flow = bpf_map_lookup_elem(&sock_flows, &key);
	return flow && !sock_is(frontend, &flow->addr, flow->port);
}

/* One choice: true if it holds, also if there is no backend (id 0). */
static __always_inline bool sock_try(struct bpf_sock_addr *ctx, const struct frontend *fe,
				     const struct sock_peer *peer, const struct sock_addr *frontend,
				     struct sock_addr *a, __u32 hash, __u32 *id)
{
	*id = sock_choose(ctx, fe, hash);
	if (!sock_to_backend(*id, a))
		*id = 0;
	return !*id || !sock_clashes(peer, bpf_get_socket_cookie(ctx), frontend, a);
}

/*
 * Chooses a backend whose answers can't be taken for another frontend's, if it
 * finds one in so many tries, a quarter of the slots apart: a Service may have only
 * one backend. Then a pod's
 * datagrams go as packets, which get a source port of their own; a process of
 * the node, whose packets no program sees before they leave, gets that one. No
 * loop: a head that is fallen into is a forbidden back-edge to 6.1's verifier.
 */
static __always_inline __u32 sock_choose_apart(struct bpf_sock_addr *ctx, const struct frontend *fe,
					       const struct sock_peer *peer, struct sock_addr *a)
{
	const struct sock_addr frontend = *a;
	__u32 id, hash = bpf_get_prandom_u32();

	if (sock_try(ctx, fe, peer, &frontend, a, hash, &id) ||
	    sock_try(ctx, fe, peer, &frontend, a, hash + (1U << 30), &id) ||
	    sock_try(ctx, fe, peer, &frontend, a, hash + (2U << 30), &id) ||
	    sock_try(ctx, fe, peer, &frontend, a, hash + (3U << 30), &id))
		return id;
	return bpf_get_netns_cookie(ctx) == host_netns ? id : 0;
}

/* A datagram to a frontend that isn't the socket's first. */
static __always_inline bool sock_send_more(struct bpf_sock_addr *ctx, const struct frontend *fe,
					   struct sock_peer *peer, struct sock_addr *a)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct sock_key key = { .cookie = cookie, .addr = a->addr,
				.port = a->port, .kind = SOCK_FRONTEND };
	struct sock_flow *flow = bpf_map_lookup_elem(&sock_flows, &key);
	const struct sock_addr frontend = *a;
	__u32 now = service_ticks(), id;

	if (flow && sock_sticks(flow->service, flow->id, service_idle(now, flow->seen),
				&flow->addr, flow->port)) {
		if (flow->seen != now)
			flow->seen = now;
		a->addr = flow->addr;
		a->port = flow->port;
		return true;
	}
	id = sock_choose_apart(ctx, fe, peer, a);
	if (!id) {
		*a = frontend;
		return false;
	}
	sock_remember_more(cookie, &frontend, a, id, fe->service);
	return true;
}
