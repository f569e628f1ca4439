/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Load balancing at the socket: connect() and sendmsg() to a frontend go to a
 * backend, and nothing is left to do per packet. TCP needs no memory for it.
 * UDP keeps {frontend, backend} with the socket, so that its datagrams stay
 * together and what it receives comes from the address it asked for.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf_helpers.h>

#include "config.h"
#include "maps.h"
#include "service.h"
#include "sockaddr.h"
#include "types.h"

/*
 * The client that affinity is for: its address isn't known before it sends,
 * but all of a pod's (or the node's) processes share a network namespace.
 */
static __always_inline void sock_client(struct bpf_sock_addr *ctx, union addr *client)
{
	client->q[0] = 0;
	client->q[1] = bpf_get_netns_cookie(ctx);
}

/* Chooses for a new flow: returns the backend's index, or 0. */
static __always_inline __u32 sock_choose(struct bpf_sock_addr *ctx, const struct frontend *fe)
{
	union addr client = {};

	if (fe->affinity)
		sock_client(ctx, &client);
	return service_choose(fe, &client, bpf_get_prandom_u32());
}

/* Is what was remembered still a backend of the Service, and not too old? */
static __always_inline bool sock_sticks(const struct frontend *fe, __u32 id, __u32 idle,
					const union addr *addr, __be16 port)
{
	const struct backend *b;

	if (idle > timeout_udp)
		return false;
	b = service_remembered(fe, id);
	return b && b->port == port && addr_equal(&b->addr, addr);
}

/* Sets a to backend id. False if there is none: the packet path rejects. */
static __always_inline bool sock_to_backend(__u32 id, struct sock_addr *a)
{
	const struct backend *b = service_backend(id);

	if (!b)
		return false;
	a->addr = b->addr;
	a->port = b->port;
	return true;
}

/* Keeps a further frontend of a socket, both ways round. */
static __always_inline void sock_remember_more(__u64 cookie, const struct sock_addr *frontend,
					       const struct sock_addr *backend, __u32 id)
{
	struct sock_key key = { .cookie = cookie, .addr = frontend->addr,
				.port = frontend->port, .kind = SOCK_FRONTEND };
	struct sock_flow flow = { .addr = backend->addr, .port = backend->port,
				  .id = id, .seen = service_ticks() };

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
				     struct sock_addr *a, __u32 *id)
{
	*id = sock_choose(ctx, fe);
	if (!sock_to_backend(*id, a))
		*id = 0;
	return !*id || !sock_clashes(peer, bpf_get_socket_cookie(ctx), frontend, a);
}

/*
 * Chooses a backend whose answers can't be taken for another frontend's, if it
 * finds one in so many tries: a Service may have only one backend. No loop: a
 * head that is fallen into is a forbidden back-edge to 6.1's verifier.
 */
static __always_inline __u32 sock_choose_apart(struct bpf_sock_addr *ctx, const struct frontend *fe,
					       const struct sock_peer *peer, struct sock_addr *a)
{
	const struct sock_addr frontend = *a;
	__u32 id;

	(void)(sock_try(ctx, fe, peer, &frontend, a, &id) ||
	       sock_try(ctx, fe, peer, &frontend, a, &id) ||
	       sock_try(ctx, fe, peer, &frontend, a, &id) ||
	       sock_try(ctx, fe, peer, &frontend, a, &id));
	return id;
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

	if (flow && sock_sticks(fe, flow->id, service_idle(now, flow->seen), &flow->addr, flow->port)) {
		if (flow->seen != now)
			flow->seen = now;
		a->addr = flow->addr;
		a->port = flow->port;
		return true;
	}
	id = sock_choose_apart(ctx, fe, peer, a);
	if (!id)
		return false;
	sock_remember_more(cookie, &frontend, a, id);
	peer->more = 1;
	return true;
}

/*
 * A datagram, or a connect, to a frontend. A connected socket has one peer, so
 * connect() takes the socket's first place whatever it held; sendmsg() takes
 * it if it is free or was not used for long.
 */
static __always_inline bool sock_send(struct bpf_sock_addr *ctx, const struct frontend *fe,
				      struct sock_addr *a, bool connect)
{
	struct sock_peer *peer = bpf_sk_storage_get(&sock_peers, ctx->sk, NULL,
						    BPF_SK_STORAGE_GET_F_CREATE);
	const struct sock_addr frontend = *a;
	__u32 now = service_ticks(), id;

	/* No memory: left to the packets' way, which needs none of the socket's. */
	if (!peer)
		return false;
	if (sock_is(a, &peer->frontend, peer->frontend_port)) {
		if (sock_sticks(fe, peer->id, service_idle(now, peer->seen), &peer->backend, peer->backend_port)) {
			if (peer->seen != now)
				peer->seen = now;
			a->addr = peer->backend;
			a->port = peer->backend_port;
			return true;
		}
	} else if (!connect && peer->frontend_port && service_idle(now, peer->seen) <= timeout_udp) {
		return sock_send_more(ctx, fe, peer, a);
	}
	id = sock_choose(ctx, fe);
	if (!sock_to_backend(id, a))
		return false;
	peer->frontend = frontend.addr;
	peer->frontend_port = frontend.port;
	peer->backend = a->addr;
	peer->backend_port = a->port;
	peer->id = id;
	peer->seen = now;
	return true;
}

/*
 * connect() to what is no frontend: whom the socket talked to before is over. It
 * may be the very backend, by its own address.
 */
static __always_inline void sock_forget(struct bpf_sock_addr *ctx)
{
	struct sock_peer *peer = bpf_sk_storage_get(&sock_peers, ctx->sk, NULL, 0);

	if (!peer)
		return;
	peer->frontend_port = 0;
	peer->backend_port = 0;
}

/* connect() or sendmsg() to a: true if a is now a backend. */
static __always_inline bool sock_forward(struct bpf_sock_addr *ctx, struct sock_addr *a, bool connect)
{
	struct frontend_key key = { .addr = a->addr, .port = a->port,
				    .proto = a->proto, .scope = SCOPE_CLUSTER };
	const struct frontend *fe = bpf_map_lookup_elem(&frontends, &key);

	if (!fe || !(fe->flags & FE_SOCKET) || sock_foreign(ctx, &a->addr)) {
		if (connect && a->proto == IPPROTO_UDP)
			sock_forget(ctx);
		return false;
	}
	if (a->proto == IPPROTO_UDP)
		return sock_send(ctx, fe, a, connect);
	return sock_to_backend(sock_choose(ctx, fe), a);
}

/* recvmsg() or getpeername() that saw a: true if a is now the frontend. */
static __always_inline bool sock_reverse(struct bpf_sock_addr *ctx, struct sock_addr *a)
{
	struct sock_key key = { .addr = a->addr, .port = a->port, .kind = SOCK_BACKEND };
	const struct sock_peer *peer;
	const struct sock_flow *flow;

	if (a->proto != IPPROTO_UDP)
		return false;
	peer = bpf_sk_storage_get(&sock_peers, ctx->sk, NULL, 0);
	if (!peer)
		return false;
	if (sock_is(a, &peer->backend, peer->backend_port)) {
		a->addr = peer->frontend;
		a->port = peer->frontend_port;
		return true;
	}
	if (!peer->more)
		return false;
	key.cookie = bpf_get_socket_cookie(ctx);
	flow = bpf_map_lookup_elem(&sock_flows, &key);
	if (!flow)
		return false;
	a->addr = flow->addr;
	a->port = flow->port;
	return true;
}
