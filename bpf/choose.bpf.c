// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The choice of a backend, to be run on test packets: which backend a flow
 * would begin with, and nothing written. The scope is in cb[0].
 */
#include "lib/begin.h"
#include "lib/parse.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* Returns the backend's index, 0 for none. */
SEC("tc")
int choose(struct __sk_buff *skb)
{
	struct pkt p = { .hook = HOOK_UPLINK_IN };
	struct frontend_key k;
	struct frontend *fe;

	if (parse(skb, &p))
		return 0;
	k = (struct frontend_key){ .addr = p.t.daddr, .port = p.t.dport, .proto = p.t.proto };
	fe = find_frontend(&k, skb->cb[0]);
	return fe ? service_pick(fe, choice_hash(&p, fe)) : 0;
}
