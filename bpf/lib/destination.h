/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Stages for packets of no known flow: Services first, then the destination. */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf_helpers.h>

#include "answer.h"
#include "begin.h"
#include "direct.h"
#include "echo.h"
#include "known.h"
#include "maps.h"
#include "packet.h"
#include "pod.h"
#include "return.h"
#include "route.h"
#include "send.h"

static __always_inline int is_pods(__u8 kind)
{
	return kind == ROUTE_LOCAL_PODS || kind == ROUTE_NATIVE || kind == ROUTE_TUNNEL ||
	       kind == ROUTE_PODS;
}

/*
 * To a frontend: a flow begins. To a Service's address without that port:
 * echo requests are answered, the rest is refused. A node's own address has
 * other ports than NodePorts, and no Service has a pod's.
 */
__noinline int to_service(struct __sk_buff *skb, struct pkt *p)
{
	struct frontend_key k = {};
	struct frontend *fe;

	if (!p)
		return -DROP_BUG;
	p->dest = kind_of(route_of(&p->t.daddr));
	if (is_pods(p->dest))
		return 0;
	k.addr = p->t.daddr;
	k.port = p->t.dport;
	k.proto = p->t.proto;
	fe = frontend_of(p, &k);
	if (fe)
		return k.port ? begin_flow(skb, p, fe) : -DROP_FRAGMENT;
	if (p->dest == ROUTE_SELF || p->dest == ROUTE_CLUSTER)
		return 0;
	k.port = 0;
	k.proto = 0;
	if (!frontend_of(p, &k))
		return 0;
	if (p->flags & PKT_ECHO)
		return answer_echo(skb, p);
	if (p->flags & PKT_LATER)
		return -DROP_FRAGMENT;
	p->answer = ANSWER_REFUSE;
	return -DROP_NO_SERVICE;
}

static __always_inline int forward_tunnel(struct __sk_buff *skb, struct pkt *p,
					  const struct route *r)
{
	const struct config *cfg = settings();
	int ret;

	if (!cfg)
		return -DROP_BUG;
	if (p->t.proto != IPPROTO_SCTP) { /* which may be a Service's answer: fits_in_pieces() */
		ret = check_size(skb, p, cfg->tunnel_mtu, 1);
		if (ret)
			return ret;
	}
	ret = clamp_mss(skb, p, cfg->tunnel_mtu);
	return ret ? ret : send_tunnel(skb, cfg, &r->hop);
}

static __always_inline int forward_native(struct __sk_buff *skb, struct pkt *p,
					  const struct route *r)
{
	int ret = check_size(skb, p, r->mtu, 1);

	if (ret)
		return ret;
	return send_neigh(skb, addr_is_zero(&r->hop) ? &p->t.daddr : &r->hop, r->ifindex);
}

/* To a connected UDP socket host unreachable is no error, so it is refused. */
static __always_inline int no_pod(struct pkt *p)
{
	p->answer = p->t.proto == IPPROTO_UDP ? ANSWER_REFUSE : ANSWER_NOBODY;
	return -DROP_NO_POD;
}

/* Where a pod's packet goes that no Service is concerned with. */
__noinline int from_pod(struct __sk_buff *skb, struct pkt *p)
{
	const struct route *r = NULL;
	struct endpoint *ep;

	if (!p)
		return -DROP_BUG;
	ep = endpoint_of(&p->t.daddr);
	if (ep)
		return deliver(skb, p, ep);
	switch (p->dest) {
	case ROUTE_LOCAL_PODS:
		return no_pod(p);
	case ROUTE_PODS:
		return -DROP_NO_ROUTE;
	case ROUTE_SERVICE:
		return -DROP_NO_SERVICE;
	case ROUTE_NATIVE:
	case ROUTE_TUNNEL:
	case ROUTE_CLUSTER:
		r = route_of(&p->t.daddr);
	}
	if (r && r->kind == ROUTE_NATIVE)
		return forward_native(skb, p, r);
	if (r && r->kind == ROUTE_TUNNEL)
		return forward_tunnel(skb, p, r);
	if (is_tunnel_packet(p))
		return -DROP_POD_TUNNEL;
	return r && is_tunnelled(r) ? forward_tunnel(skb, p, r) : VERDICT_PASS;
}

/* Where a packet of the node's stack goes that no Service is concerned with. */
static __always_inline int from_host(const struct pkt *p)
{
	return p->dest == ROUTE_SERVICE ? -DROP_NO_SERVICE : VERDICT_PASS;
}

/*
 * Where a packet from a NIC or the tunnel goes that no Service is concerned
 * with. Pods are reached from the cluster's nodes only, and from where pods'
 * own addresses are known; what a node sends for a client outside is answered
 * by that node.
 */
__noinline int from_network(struct __sk_buff *skb, struct pkt *p)
{
	struct endpoint *ep;
	int ret = 0;

	if (!p)
		return -DROP_BUG;
	switch (p->dest) {
	case ROUTE_NONE: /* … but for pods whose range nobody told us */
	case ROUTE_LOCAL_PODS:
		ep = endpoint_of(&p->t.daddr);
		if (!ep && p->dest == ROUTE_NONE)
			return VERDICT_PASS;
		if (!from_peer(p) && !(p->flags & PKT_KNOWN))
			return -DROP_POD_OUTSIDE;
		if (!ep)
			return no_pod(p);
		if (!(p->flags & PKT_CLUSTER) && from_peer(p))
			ret = remember_way(skb, p);
		if (ret == -DROP_PORT_CLASH)
			return begin_apart(skb, p);
		return ret ? ret : deliver(skb, p, ep);
	case ROUTE_NATIVE:
	case ROUTE_TUNNEL:
	case ROUTE_PODS:
		return from_peer(p) ? -DROP_THIRD_NODE : -DROP_POD_OUTSIDE;
	case ROUTE_SERVICE:
		return p->flags & PKT_CLUSTER ? -DROP_NO_SERVICE : -DROP_SERVICE_OUTSIDE;
	case ROUTE_SELF:
		if (!(p->flags & PKT_CLUSTER) && from_peer(p))
			ret = remember_way(skb, p);
		if (ret == -DROP_PORT_CLASH)
			return begin_apart(skb, p);
		return ret ? ret : VERDICT_PASS;
	}
	return VERDICT_PASS;
}
