/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Has a flow's frontend moved to another node? Nodes tell by ARP and neighbour
 * advertisements when an address comes to them; all of their network hear it.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "maps.h"
#include "packet.h"
#include "service.h"

/*
 * A node of the cluster, or this one, claims a Service's address. Who forges that
 * in a node's name has datagrams taken for a flow's that has moved: a client's own
 * answers may then be the other's of its two frontends, nobody else's.
 */
static __always_inline void note_claim(void)
{
	__u32 i = MOVE_CLAIMED, *claimed = bpf_map_lookup_elem(&moved, &i);

	if (claimed)
		*claimed = service_ticks();
}

/*
 * A client's packet has come by another way than its flow (a FLOW_RETURN) came
 * by: is it still that flow? A connection is, once it is under way. Of a datagram
 * that can't be said: it is if an address has moved since the way began, else the
 * client has asked another frontend from the same port.
 */
static __always_inline bool flow_moved(const struct pkt *p, const struct flow *f)
{
	__u32 i = MOVE_CLAIMED, *claimed = bpf_map_lookup_elem(&moved, &i);

	if (p->t.proto == IPPROTO_TCP || p->t.proto == IPPROTO_SCTP)
		return !opens_connection(p);
	return claimed && (__s32)(*claimed - f->service) >= 0;
}
