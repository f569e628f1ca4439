// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The tunnel's device: one for all nodes, each packet carries its node.
 */
#include "lib/destination.h"
#include "lib/finish.h"
#include "lib/known.h"
#include "lib/source.h"
#include "lib/tunnel.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Out of the tunnel. */
SEC("tc")
int tc_tunnel_in(struct __sk_buff *skb)
{
	struct pkt p = { .hook = HOOK_TUNNEL_IN };
	int ret;

	ret = parse(skb, &p);
	if (!ret)
		ret = tunnel_source(skb, &p);
	if (!ret)
		ret = known_flow(skb, &p);
	if (!ret)
		ret = known_error(skb, &p);
	if (!ret)
		ret = to_service(skb, &p);
	if (!ret)
		ret = from_network(skb, &p);
	return finish(skb, &p, ret);
}

/* Into the tunnel, from the node's stack; our own redirects have their key. */
SEC("tc")
int tc_tunnel_out(struct __sk_buff *skb)
{
	struct pkt p = { .hook = HOOK_TUNNEL_OUT };
	int ret;

	if (skb->mark == PB_MARK_SENT)
		return TC_ACT_UNSPEC;
	ret = parse(skb, &p);
	if (!ret)
		ret = into_tunnel(skb, &p);
	return finish(skb, &p, ret);
}
