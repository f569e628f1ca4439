/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The end of each hook: count what is dropped, tell its sender, tell tc. */
#pragma once

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf_helpers.h>

#include "answer.h"
#include "maps.h"
#include "packet.h"

static __always_inline void count_drop(struct __sk_buff *skb, __u32 reason)
{
	struct drop_count *c = bpf_map_lookup_elem(&drops, &reason);

	if (!c)
		return;
	c->packets++;
	c->bytes += skb->len;
}

/* Turns what the stages say into tc's code, counts and answers drops. */
static __always_inline int finish(struct __sk_buff *skb, struct pkt *p, int ret)
{
	if (ret == VERDICT_REDIRECT)
		return TC_ACT_REDIRECT;
	if (ret >= 0)
		return TC_ACT_UNSPEC;
	count_drop(skb, -ret);
	if (p->answer && answer(skb, p) == TC_ACT_REDIRECT)
		return TC_ACT_REDIRECT;
	return TC_ACT_SHOT;
}
