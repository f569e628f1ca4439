/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Backends outside the cluster, for clients outside. */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "addr.h"
#include "maps.h"
#include "packet.h"
#include "send.h"

/* From the network, to where answers come in anybody's frames. */
static __always_inline bool from_outside(const struct pkt *p, const struct flow *reply)
{
	return !(reply->flags & FLOW_PEER) &&
	       (p->hook == HOOK_UPLINK_IN || p->hook == HOOK_TUNNEL_IN);
}

/*
 * The route from one address to another, of what comes in by p's NIC: 0, if there
 * is one. Without a neighbour's MAC that one is zero.
 */
static __always_inline int route_between(struct __sk_buff *skb, const struct pkt *p,
					 const union addr *from, const union addr *to,
					 struct bpf_fib_lookup *fib)
{
	long ret;

	fib->family = p->family == 4 ? AF_INET : AF_INET6;
	fib->ifindex = p->ifindex;
	if (p->family == 4) {
		fib->ipv4_src = from->w[3];
		fib->ipv4_dst = to->w[3];
	} else {
		__builtin_memcpy(fib->ipv6_src, from, sizeof(fib->ipv6_src));
		__builtin_memcpy(fib->ipv6_dst, to, sizeof(fib->ipv6_dst));
	}
	ret = bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
	return ret != BPF_FIB_LKUP_RET_SUCCESS && ret != BPF_FIB_LKUP_RET_NO_NEIGH;
}

/*
 * A backend outside the cluster would answer a client outside by itself, from an
 * address that the client never asked. So it sees this node as its client: the
 * address of the NIC that leads there. Such a packet can't be left to the stack,
 * which takes its own address for forged.
 */
__noinline int as_node(struct __sk_buff *skb, struct pkt *p, struct flow *f)
{
	struct bpf_fib_lookup fib = {};
	__u32 ifindex;
	struct nic *nic;

	if (!p || !f)
		return -DROP_BUG;
	if (route_between(skb, p, &p->t.saddr, &f->daddr, &fib))
		return -DROP_NO_ROUTE;
	ifindex = fib.ifindex;
	nic = bpf_map_lookup_elem(&nics, &ifindex);
	if (!nic)
		return -DROP_NO_ROUTE;
	f->saddr = p->family == 4 ? nic->v4 : nic->v6;
	if (addr_is_zero(&f->saddr))
		return -DROP_NO_ROUTE;
	if (fib.family == AF_INET)
		addr_from_v4(&f->hop, fib.ipv4_dst);
	else /* IPv4's next hop may be an IPv6 router */
		__builtin_memcpy(&f->hop, fib.ipv6_dst, sizeof(f->hop));
	f->way = WAY_NEIGH;
	f->ifindex = ifindex;
	return 0;
}
