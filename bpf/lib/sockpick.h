/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The choice of a backend for a socket, and how long it sticks to it. */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "config.h"
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

/* Chooses for a new flow by a random hash: returns the backend's index, or 0. */
static __always_inline __u32 sock_choose(struct bpf_sock_addr *ctx, const struct frontend *fe,
					 __u32 hash)
{
	union addr client = {};

	if (fe->affinity)
		sock_client(ctx, &client);
	return service_choose(fe, &client, hash);
}

/*
 * Does what was remembered still serve, and is it not too old? A Service's index
 * may have changed since, and its policy: as long as the backend is the one that
 * was chosen and serves, the socket stays.
 */
static __always_inline bool sock_sticks(__u32 service, __u32 id, __u32 idle,
					const union addr *addr, __be16 port)
{
	const struct backend *b;

	if (idle > timeout_udp)
		return false;
	b = service_backend(id);
	return b && b->service == service &&
	       (b->flags & (BACKEND_GONE | BACKEND_KEPT)) != BACKEND_GONE && b->port == port &&
	       addr_equal(&b->addr, addr);
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
