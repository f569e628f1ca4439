// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The node's NICs.
 */
#include "lib/destination.h"
#include "lib/finish.h"
#include "lib/known.h"
#include "lib/neighbour.h"
#include "lib/source.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* From the network. */
SEC("tc")
int tc_uplink_in(struct __sk_buff *skb)
{
	struct pkt p = { .hook = HOOK_UPLINK_IN };
	int ret;

	if ((skb->mark & PB_MARK_MASK) == PB_MARK)
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return finish(skb, &p, answer_arp(skb));
	ret = parse(skb, &p);
	if (!ret)
		ret = answer_nd(skb, &p);
	if (!ret)
		ret = addr_is_multicast(&p.t.daddr) ? VERDICT_PASS : 0;
	if (!ret)
		ret = known_flow(skb, &p);
	if (!ret)
		ret = uplink_source(&p);
	if (!ret)
		ret = uplink_tunnel(&p);
	if (!ret)
		ret = known_error(skb, &p);
	if (!ret)
		ret = to_service(skb, &p);
	if (!ret)
		ret = from_network(skb, &p);
	return finish(skb, &p, ret);
}

/* To the network: the node's own packets, for Services and from backends. */
SEC("tc")
int tc_uplink_out(struct __sk_buff *skb)
{
	struct pkt p = { .hook = HOOK_UPLINK_OUT };
	int ret;

	if ((skb->mark & PB_MARK_MASK) == PB_MARK)
		return TC_ACT_UNSPEC;
	ret = parse(skb, &p);
	if (!ret)
		ret = addr_is_multicast(&p.t.daddr) ? VERDICT_PASS : 0;
	if (!ret)
		ret = known_flow(skb, &p);
	if (!ret)
		ret = known_error(skb, &p);
	if (!ret)
		ret = to_service(skb, &p);
	if (!ret)
		ret = from_host(&p);
	return finish(skb, &p, ret);
}
