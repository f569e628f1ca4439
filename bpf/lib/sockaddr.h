/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The remote address of a socket call, of either family.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "addr.h"
#include "types.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

struct sock_addr {
	union addr addr;
	__be16 port;
	__u8 proto;
};

/* MPTCP's sockets fall back to TCP's address: Services know only TCP. */
static __always_inline __u8 sock_proto(const struct bpf_sock_addr *ctx)
{
	return ctx->protocol == IPPROTO_MPTCP ? IPPROTO_TCP : ctx->protocol;
}

static __always_inline void sock_read4(const struct bpf_sock_addr *ctx, struct sock_addr *a)
{
	addr_from_v4(&a->addr, ctx->user_ip4);
	a->port = ctx->user_port;
	a->proto = sock_proto(ctx);
}

static __always_inline void sock_read6(const struct bpf_sock_addr *ctx, struct sock_addr *a)
{
	a->addr.w[0] = ctx->user_ip6[0];
	a->addr.w[1] = ctx->user_ip6[1];
	a->addr.w[2] = ctx->user_ip6[2];
	a->addr.w[3] = ctx->user_ip6[3];
	a->port = ctx->user_port;
	a->proto = sock_proto(ctx);
}

static __always_inline void sock_write4(struct bpf_sock_addr *ctx, const struct sock_addr *a)
{
	ctx->user_ip4 = a->addr.w[3];
	ctx->user_port = a->port;
}

static __always_inline void sock_write6(struct bpf_sock_addr *ctx, const struct sock_addr *a)
{
	ctx->user_ip6[0] = a->addr.w[0];
	ctx->user_ip6[1] = a->addr.w[1];
	ctx->user_ip6[2] = a->addr.w[2];
	ctx->user_ip6[3] = a->addr.w[3];
	ctx->user_port = a->port;
}

static __always_inline bool sock_is(const struct sock_addr *a, const union addr *addr, __be16 port)
{
	return a->port == port && addr_equal(&a->addr, addr);
}

/* Cookie of the node's own network namespace; 0: not known, which is nobody's. */
volatile const __u64 host_netns = 0;

/* Loopback addresses are each namespace's own: the node's lead to no pod's. */
static __always_inline bool sock_foreign(struct bpf_sock_addr *ctx, const union addr *a)
{
	const __u32 *w = a->w;
	bool v4 = addr_is_v4(a) && (bpf_ntohl(w[3]) >> 24) == 127;
	bool v6 = !w[0] && !w[1] && !w[2] && w[3] == bpf_htonl(1);

	return (v4 || v6) && bpf_get_netns_cookie(ctx) != host_netns;
}
