/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The stage of packets that the node's stack sends into the tunnel. */
#pragma once

#include <linux/bpf.h>

#include <bpf_helpers.h>

#include "packet.h"
#include "route.h"
#include "send.h"

/* Sets the node behind the tunnel by the destination's route. */
__noinline int into_tunnel(struct __sk_buff *skb, struct pkt *p)
{
	const struct config *cfg = settings();
	const struct route *r;
	int ret;

	if (!p || !cfg)
		return -DROP_BUG;
	if (addr_is_multicast(&p->t.daddr))
		return -DROP_NO_ROUTE;
	r = route_of(&p->t.daddr);
	if (!r || !is_tunnelled(r))
		return -DROP_NO_ROUTE;
	ret = clamp_mss(skb, p, cfg->tunnel_mtu);
	if (ret)
		return ret;
	ret = set_tunnel(skb, cfg, &r->hop);
	return ret ? ret : VERDICT_PASS;
}
