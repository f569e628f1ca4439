/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Stages at the uplinks and the tunnel: sources that can't be. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_packet.h>

#include <bpf_helpers.h>

#include "addr.h"
#include "destination.h"
#include "maps.h"
#include "packet.h"
#include "route.h"

/*
 * Our own addresses, Services' and loopback come from no wire; the cluster's
 * pods from nodes alone. A node's address counts as the cluster's only in that
 * node's frames.
 */
__noinline int uplink_source(struct pkt *p)
{
	if (!p)
		return -DROP_BUG;
	if (addr_is_loopback(&p->t.saddr))
		return -DROP_FORGED_SOURCE;
	switch (kind_of(route_of(&p->t.saddr))) {
	case ROUTE_SELF:
	case ROUTE_LOCAL_PODS:
	case ROUTE_SERVICE:
		return -DROP_FORGED_SOURCE;
	case ROUTE_NATIVE:
	case ROUTE_TUNNEL:
	case ROUTE_PODS:
		if (!from_peer(p))
			return -DROP_FORGED_SOURCE;
		p->flags |= PKT_CLUSTER;
		return 0;
	case ROUTE_CLUSTER:
		if (from_peer(p))
			p->flags |= PKT_CLUSTER;
		break;
	case ROUTE_UNMASQUERADED:
		p->flags |= PKT_KNOWN;
	}
	return 0;
}

/*
 * Tunnel packets need a node's address and MAC; MAC zero stands for a node
 * behind a router. They are the stack's, whatever Service claims their port.
 */
__noinline int uplink_tunnel(struct pkt *p)
{
	struct peer_key any = {};

	if (!p)
		return -DROP_BUG;
	if (!is_tunnel_packet(p))
		return 0;
	any.addr = p->t.saddr;
	any.ifindex = p->ifindex;
	if (peer_of(p, &p->t.saddr) || bpf_map_lookup_elem(&peers, &any))
		return VERDICT_PASS;
	return -DROP_FORGED_TUNNEL;
}

/*
 * Which node sent it through the tunnel: one that we know, on whatever NIC it
 * came in. The inner frame is for us, whatever MAC it has.
 */
__noinline int tunnel_source(struct __sk_buff *skb, struct pkt *p)
{
	struct bpf_tunnel_key key = {};
	struct peer_key node = {};

	if (!p)
		return -DROP_BUG;
	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), BPF_F_TUNINFO_IPV6))
		__builtin_memcpy(&p->from, key.remote_ipv6, sizeof(p->from));
	else if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0))
		addr_from_v4(&p->from, bpf_htonl(key.remote_ipv4));
	else
		return -DROP_FORGED_TUNNEL;
	node.addr = p->from;
	if (!bpf_map_lookup_elem(&peers, &node))
		return -DROP_FORGED_TUNNEL;
	if (bpf_skb_change_type(skb, PACKET_HOST))
		return -DROP_BUG;
	p->flags |= PKT_PEER;
	return uplink_source(p);
}
