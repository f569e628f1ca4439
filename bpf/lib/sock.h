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

#include "maps.h"
#include "service.h"
#include "sockaddr.h"
#include "sockmore.h"
#include "sockpick.h"
#include "types.h"

/*
 * For how long the first place wasn't used. A connected socket's datagrams without
 * an address pass no hook: as long as it is connected, it counts as in use.
 */
static __always_inline __u32 sock_idle(struct bpf_sock_addr *ctx, const struct sock_peer *peer,
				       __u32 now, bool connect)
{
	if (!connect && ctx->sk->state == BPF_TCP_ESTABLISHED)
		return 0;
	return service_idle(now, peer->seen);
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
	__u32 now = service_ticks(), id, idle;

	/* No memory: left to the packets' way, which needs none of the socket's. */
	if (!peer)
		return false;
	idle = sock_idle(ctx, peer, now, connect);
	if (sock_is(a, &peer->frontend, peer->frontend_port)) {
		if (sock_sticks(peer->service, peer->id, idle, &peer->backend,
				peer->backend_port)) {
			if (peer->seen != now)
				peer->seen = now;
			a->addr = peer->backend;
			a->port = peer->backend_port;
			return true;
		}
	} else if (!connect && peer->frontend_port && idle <= timeout_udp) {
		return sock_send_more(ctx, fe, peer, a);
	}
	id = sock_choose(ctx, fe, bpf_get_prandom_u32());
	if (!sock_to_backend(id, a))
		return false;
	peer->frontend = frontend.addr;
	peer->frontend_port = frontend.port;
	peer->backend = a->addr;
	peer->backend_port = a->port;
	peer->id = id;
	peer->service = fe->service;
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
	return sock_to_backend(sock_choose(ctx, fe, bpf_get_prandom_u32()), a);
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
	key.cookie = bpf_get_socket_cookie(ctx);
	flow = bpf_map_lookup_elem(&sock_flows, &key);
	if (!flow)
		return false;
	a->addr = flow->addr;
	a->port = flow->port;
	return true;
}
