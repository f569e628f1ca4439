/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What an address is to this node, whose frame a packet was, how to get there. */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf_helpers.h>

#include "addr.h"
#include "maps.h"
#include "packet.h"
#include "policy.h"

static __always_inline const struct config *settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

/*
 * Keys are copied to the stack, here and elsewhere: 6.1's verifier takes no
 * other memory of a global function's arguments for a key ("R2 type=mem").
 */
static __always_inline struct endpoint *endpoint_of(const union addr *a)
{
	union addr k = *a;

	return bpf_map_lookup_elem(&endpoints, &k);
}

static __always_inline const struct route *route_of(const union addr *a)
{
	struct route_key k = { .prefixlen = 128 };

	__builtin_memcpy(k.addr, a, sizeof(k.addr));
	return bpf_map_lookup_elem(&routes, &k);
}

static __always_inline __u8 kind_of(const struct route *r)
{
	return r ? r->kind : ROUTE_NONE;
}

/* Does a node of the cluster send frames like this one, from this address? */
static __always_inline const struct peer *peer_of(const struct pkt *p, const union addr *from)
{
	struct peer_key k = { .ifindex = p->ifindex };

	if (from)
		k.addr = *from;
	__builtin_memcpy(k.mac, p->smac, sizeof(k.mac));
	return bpf_map_lookup_elem(&peers, &k);
}

/* What tells a node by a packet that it sent: its MAC, or its address's end. */
static __always_inline void sender_of(const struct pkt *p, __u8 *from)
{
	__builtin_memcpy(from, p->hook == HOOK_TUNNEL_IN ? &p->from.b[10] : p->smac, 6);
}

/* Pods and the host were checked where they sent; a NIC's packets are here. */
static __always_inline int from_peer(struct pkt *p)
{
	if (p->flags & PKT_PEER || p->hook != HOOK_UPLINK_IN)
		return 1;
	if (!peer_of(p, NULL))
		return 0;
	p->flags |= PKT_PEER;
	return 1;
}

/* Nodes behind a router have their own addresses routed to the tunnel. */
static __always_inline int is_tunnelled(const struct route *r)
{
	const struct config *cfg = settings();

	return r->kind == ROUTE_TUNNEL ||
	       (r->kind == ROUTE_CLUSTER && cfg && r->ifindex && r->ifindex == cfg->tunnel_ifindex);
}

/*
 * A pod's packets to the tunnel's port at any node's address, known or not,
 * would be taken for its own node's: masquerade gives them that address.
 */
static __always_inline int is_tunnel_packet(const struct pkt *p)
{
	const struct config *cfg = settings();

	return p->t.proto == IPPROTO_UDP && cfg && cfg->tunnel_ifindex &&
	       p->t.dport == cfg->tunnel_port;
}

/*
 * The way to a backend. What no NIC of ours leads to, a backend outside or a
 * node behind a router, is the stack's, and the result VERDICT_PASS: its answers
 * come in anybody's frames. So is the node itself, whose answers don't.
 */
static __always_inline int way_there(const union addr *to, struct flow *f)
{
	struct endpoint *ep = endpoint_of(to);
	const struct route *r;

	if (ep) {
		f->way = WAY_POD;
		f->ifindex = ep->ifindex;
		__builtin_memcpy(f->dmac, ep->mac, sizeof(f->dmac) + sizeof(f->smac));
		return policy_in(ep);
	}
	r = route_of(to);
	f->way = WAY_STACK;
	if (!r || r->kind == ROUTE_UNMASQUERADED)
		return VERDICT_PASS;
	f->hop = addr_is_zero(&r->hop) ? *to : r->hop;
	f->ifindex = r->ifindex;
	switch (r->kind) {
	case ROUTE_NATIVE:
		f->way = WAY_NEIGH;
		return 0;
	case ROUTE_TUNNEL:
		f->way = WAY_TUNNEL;
		return 0;
	case ROUTE_CLUSTER:
		if (!r->ifindex)
			return VERDICT_PASS;
		f->way = is_tunnelled(r) ? WAY_TUNNEL : WAY_NEIGH;
		return 0;
	case ROUTE_LOCAL_PODS:
		return -DROP_NO_POD;
	case ROUTE_PODS:
	case ROUTE_SERVICE:
		return -DROP_NO_ROUTE;
	}
	return 0;
}

/*
 * The way back to the packet's sender: as it came, before any route. The node
 * itself gets it by the NIC that its packet left by, where it expects it.
 */
static __always_inline int way_back(const struct pkt *p, struct flow *f)
{
	struct endpoint *ep;

	switch (p->hook) {
	case HOOK_POD_IN:
		ep = endpoint_of(&p->t.saddr);
		if (!ep)
			return -DROP_BUG;
		if (!(ep->flags & ENDPOINT_CLIENT))
			ep->flags |= ENDPOINT_CLIENT;
		f->way = WAY_POD;
		f->ifindex = ep->ifindex;
		__builtin_memcpy(f->dmac, ep->mac, sizeof(f->dmac) + sizeof(f->smac));
		return 0;
	case HOOK_UPLINK_IN:
	case HOOK_UPLINK_OUT:
		f->way = p->hook == HOOK_UPLINK_IN ? WAY_FRAME : WAY_HOST;
		f->ifindex = p->ifindex;
		__builtin_memcpy(f->dmac, p->smac, sizeof(f->dmac));
		__builtin_memcpy(f->smac, p->dmac, sizeof(f->smac));
		return 0;
	case HOOK_TUNNEL_IN:
		f->way = WAY_TUNNEL;
		f->hop = p->from;
		return 0;
	}
	f->way = WAY_STACK;
	return 0;
}
