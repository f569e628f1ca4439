/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Internet checksums, by difference (RFC 1624) and over short headers. */
#pragma once

#include <linux/types.h>

#include "types.h"

/* Sums are kept in 64 bits and folded at the end; 32-bit words may be added. */
static __always_inline __u32 sum_fold32(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return sum;
}

static __always_inline __u16 sum_fold16(__u64 sum)
{
	__u32 s = sum_fold32(sum);

	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return s;
}

static __always_inline __u64 sum_addr(const union addr *a)
{
	return (__u64)a->w[0] + a->w[1] + a->w[2] + a->w[3];
}

/* new - old, in ones' complement. For v4-mapped addresses the prefixes cancel. */
static __always_inline __u64 sum_addr_diff(const union addr *old, const union addr *new)
{
	return sum_addr(new) + (__u32)~old->w[0] + (__u32)~old->w[1] + (__u32)~old->w[2] +
	       (__u32)~old->w[3];
}

static __always_inline __u64 sum_diff16(__be16 old, __be16 new)
{
	return (__u64)(__u16)~old + new;
}

/* What a header's checksum becomes when the data changed by diff. */
static __always_inline __u16 sum_replace(__u16 check, __u64 diff)
{
	return ~sum_fold16((__u16)~check + diff);
}

/* Reads any struct's bytes as 16-bit words. */
typedef __u16 __attribute__((may_alias)) word16;

/* Sum over words of a header that lies on the stack; n: 16-bit words, constant. */
static __always_inline __u64 sum_words(const void *data, int n)
{
	const word16 *w = data;
	__u64 sum = 0;

	for (int i = 0; i < n; i++)
		sum += w[i];
	return sum;
}
