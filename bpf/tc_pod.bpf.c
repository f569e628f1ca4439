// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The host's end of a pod's veth.
 */
#include "lib/destination.h"
#include "lib/direct.h"
#include "lib/finish.h"
#include "lib/known.h"
#include "lib/pod.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* From a pod. */
SEC("tc")
int tc_pod_in(struct __sk_buff *skb)
{
	struct pkt p = { .hook = HOOK_POD_IN };
	int ret;

	ret = pod_arp(skb);
	if (!ret)
		ret = parse(skb, &p);
	if (!ret)
		ret = pod_source(&p);
	if (!ret)
		ret = to_near_pod(skb, &p);
	if (!ret)
		ret = known_flow(skb, &p);
	if (!ret)
		ret = known_error(skb, &p);
	if (!ret)
		ret = to_service(skb, &p);
	if (!ret)
		ret = to_direct(skb, &p);
	if (!ret)
		ret = from_pod(skb, &p);
	return finish(skb, &p, ret);
}

/*
 * To a pod, from the node's stack. What redirect_peer delivers doesn't come
 * here, what other programs redirected was dealt with.
 */
SEC("tc")
int tc_pod_out(struct __sk_buff *skb)
{
	struct pkt p = { .hook = HOOK_POD_OUT };
	int ret;

	if (skb->mark == PB_MARK_SENT)
		return TC_ACT_UNSPEC;
	ret = parse(skb, &p);
	if (!ret)
		ret = to_this_pod(&p);
	if (!ret)
		ret = known_flow(skb, &p);
	if (!ret)
		ret = known_error(skb, &p);
	return finish(skb, &p, ret);
}
