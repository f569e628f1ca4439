/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Stages at a pod's veth: who may send, what may be delivered. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>

#include <bpf_helpers.h>

#include "addr.h"
#include "maps.h"
#include "neighbour.h"
#include "packet.h"
#include "parse.h"
#include "policy.h"
#include "route.h"
#include "send.h"

/* Does the pod behind this veth have the address? */
static __always_inline int owns(__u32 ifindex, const union addr *a)
{
	struct endpoint *ep = endpoint_of(a);

	return ep && ep->ifindex == ifindex;
}

/* ARP of a pod names its own address, or none (a probe). */
__noinline int pod_arp(struct __sk_buff *skb)
{
	struct arp_packet a = {};
	union addr sender;
	__be32 spa;

	if (skb->vlan_present)
		return -DROP_MALFORMED; /* pods have no VLANs */
	if (skb->protocol != bpf_htons(ETH_P_ARP))
		return 0;
	if (bpf_skb_load_bytes(skb, 0, &a.eth, sizeof(a) - sizeof(a.pad)))
		return -DROP_MALFORMED;
	__builtin_memcpy(&spa, a.arp.spa, sizeof(spa));
	addr_from_v4(&sender, spa);
	return spa && !owns(skb->ifindex, &sender) ? -DROP_POD_ARP : VERDICT_PASS;
}

/* Neighbour discovery, MLD and mDNS on the link, from its own address there. */
static __always_inline int is_link_traffic(const struct pkt *p)
{
	return p->family == 6 && (addr_is_zero(&p->t.saddr) || addr_is_link_local(&p->t.saddr)) &&
	       (addr_is_multicast(&p->t.daddr) || addr_is_link_local(&p->t.daddr));
}

/*
 * A pod sends from its own address and MAC. Multicast, and what is for the
 * link alone, is the stack's; but it would take a tunnel's packet at that.
 */
__noinline int pod_source(struct pkt *p)
{
	struct endpoint *ep;
	int link;

	if (!p)
		return -DROP_BUG;
	if (p->t.proto == IPPROTO_ICMPV6 &&
	    (p->type == ND_ROUTER_ADVERTISEMENT || p->type == ND_REDIRECT))
		return -DROP_POD_ARP;
	link = is_link_traffic(p);
	if (!link) {
		ep = endpoint_of(&p->t.saddr);
		if (!ep || ep->ifindex != p->ifindex)
			return -DROP_POD_SOURCE;
		if (!mac_equal(ep->mac, p->smac))
			return -DROP_POD_MAC;
		if (policy_out(ep))
			return -DROP_POLICY;
		p->client = !!(ep->flags & ENDPOINT_CLIENT);
	}
	if (!link && !addr_is_multicast(&p->t.daddr))
		return 0;
	return is_tunnel_packet(p) ? -DROP_POD_TUNNEL : VERDICT_PASS;
}

/* Delivers to a pod of this node. */
static __always_inline int deliver(struct __sk_buff *skb, const struct pkt *p,
				   const struct endpoint *ep)
{
	__u32 ifindex = ep->ifindex;
	int ret = policy_in(ep);

	if (ret)
		return ret;
	if (write_macs(skb, ep->mac))
		return -DROP_BUG;
	return send_pod(skb, p, ifindex);
}

/*
 * From pod to pod on one node, at once: unless one of them is a Service's
 * client by packets, no flow can know of it.
 */
__noinline int to_near_pod(struct __sk_buff *skb, struct pkt *p)
{
	struct endpoint *ep;

	if (!p)
		return -DROP_BUG;
	ep = endpoint_of(&p->t.daddr);
	if (!ep || ep->flags & ENDPOINT_CLIENT || p->client)
		return 0;
	return deliver(skb, p, ep);
}

/* From the node's stack to the pod behind this veth. */
__noinline int to_this_pod(struct pkt *p)
{
	struct endpoint *ep;
	int ret;

	if (!p)
		return -DROP_BUG;
	ep = endpoint_of(&p->t.daddr);
	if (!ep)
		return VERDICT_PASS; /* neighbour discovery, or not registered yet */
	ret = policy_in(ep);
	if (ret)
		return ret;
	return ep->flags & ENDPOINT_CLIENT ? 0 : VERDICT_PASS;
}
