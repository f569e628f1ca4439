/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A Service's choice of a backend: one function for sockets, packets and the
 * test program.
 */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "addr.h"
#include "config.h"
#include "maps.h"
#include "types.h"

static __always_inline __u32 service_ticks(void)
{
	return bpf_ktime_get_coarse_ns() >> TICK_SHIFT;
}

/* Ticks since seen, which another CPU may have set to the tick after ours. */
static __always_inline __u32 service_idle(__u32 now, __u32 seen)
{
	return (__s32)(now - seen) < 0 ? 0 : now - seen;
}

/* A backend just chosen, or NULL. */
static __always_inline const struct backend *service_backend(__u32 id)
{
	const struct backend *b = bpf_map_lookup_elem(&backends, &id);

	return b && b->port ? b : NULL;
}

/* A backend remembered from before if it is still one of fe's Service, else NULL. */
static __always_inline const struct backend *service_remembered(const struct frontend *fe, __u32 id)
{
	const struct backend *b = service_backend(id);

	return b && b->service == fe->service && !(b->flags & BACKEND_GONE) ? b : NULL;
}

/* Is affinity over for a client that was idle for so many ticks? */
static __always_inline bool service_over(const struct frontend *fe, __u32 idle)
{
	return (__u64)idle << TICK_SHIFT > fe->affinity * 1000000000ULL;
}

/* The backend that hash falls on, or 0. Multiply-shift: no bias worth a division. */
static __always_inline __u32 service_pick(const struct frontend *fe, __u32 hash)
{
	__u32 service = fe->service, slot;
	__u64 *word = bpf_map_lookup_elem(&services, &service), w;
	__u32 *id;

	if (!word)
		return 0;
	/* One load: base and count belong together. */
	w = *(volatile __u64 *)word;
	slot = SERVICE_BASE(w) + (__u32)(((__u64)hash * SERVICE_COUNT(w)) >> 32);
	if (!SERVICE_COUNT(w))
		return 0;
	id = bpf_map_lookup_elem(&slots, &slot);
	return id ? *id : 0;
}

/*
 * A Service with affinity: where the client went before, else by its address,
 * on which all nodes agree. Once its time is over, by the flow's hash: the next
 * one may go elsewhere.
 */
static __always_inline __u32 service_affine(const struct frontend *fe, const union addr *client,
					    __u32 hash)
{
	struct affinity_key key = { .client = *client, .service = fe->service };
	struct affinity *old = bpf_map_lookup_elem(&affinities, &key);
	struct affinity new = { .seen = service_ticks() };
	bool over = false;

	if (old) {
		over = service_over(fe, service_idle(new.seen, old->seen));
		if (!over && service_remembered(fe, old->backend)) {
			if (old->seen != new.seen)
				old->seen = new.seen;
			return old->backend;
		}
	}
	new.backend = service_pick(fe, over ? hash : addr_hash(client));
	if (new.backend)
		bpf_map_update_elem(&affinities, &key, &new, BPF_ANY);
	return new.backend;
}

/* The backend for a new flow of client, or 0; hash is the flow's. */
static __always_inline __u32 service_choose(const struct frontend *fe, const union addr *client, __u32 hash)
{
	if (fe->affinity)
		return service_affine(fe, client, hash);
	return service_pick(fe, hash);
}
