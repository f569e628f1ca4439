// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The node's NICs.
 */
#include <linux/if_packet.h>

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

	if (skb->pkt_type == PACKET_OTHERHOST || (skb->mark & PB_MARK_MASK) == PB_MARK)
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return finish(skb, &p, answer_arp(skb, 0));
	ret = parse(skb, &p);
	if (!ret)
		ret = answer_nd(skb, &p);
	if (!ret)
		ret = known_flow(skb, &p);
	if (!ret)
		ret = uplink_source(&p);
	if (!ret)
		ret = uplink_tunnel(&p);
	if (!ret)
		ret = addr_is_multicast(&p.t.daddr) ? VERDICT_PASS : 0;
	if (!ret)
		ret = known_error(skb, &p);
	if (!ret)
		ret = to_service(skb, &p);
	if (!ret)
		ret = from_network(skb, &p);
	return finish(skb, &p, ret);
}

/*
 * To the network: answers of backends on the host's network, and what the node
 * itself (no other device brought it) asks Services.
 */
SEC("tc")
int tc_uplink_out(struct __sk_buff *skb)
{
	struct pkt p = { .hook = HOOK_UPLINK_OUT };
	int ret;

	if ((skb->mark & PB_MARK_MASK) == PB_MARK)
		return TC_ACT_UNSPEC;
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return finish(skb, &p, answer_arp(skb, 1));
	ret = parse(skb, &p);
	if (!ret)
		ret = answer_nd(skb, &p);
	if (!ret)
		ret = addr_is_multicast(&p.t.daddr) ? VERDICT_PASS : 0;
	if (!ret)
		ret = known_flow(skb, &p);
	if (!ret)
		ret = known_error(skb, &p);
	if (!ret)
		ret = skb->ingress_ifindex ? VERDICT_PASS : 0;
	if (!ret)
		ret = to_service(skb, &p);
	if (!ret)
		ret = from_host(&p);
	return finish(skb, &p, ret);
}
