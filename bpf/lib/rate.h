/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What anybody outside can cause is done so often on each CPU. Short periods: a
 * client that is refused in one and asks again finds another state then.
 */
#pragma once

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "config.h"
#include "maps.h"
#include "service.h"

static __always_inline bool within_rate(__u32 kind, __u32 limit, __u32 shift)
{
	__u32 now = bpf_ktime_get_coarse_ns() >> shift;
	struct rate *r = bpf_map_lookup_elem(&budgets, &kind);

	if (!r)
		return false;
	if (r->tick != now) {
		r->tick = now;
		r->sent = 0;
	}
	return r->sent++ < limit;
}
