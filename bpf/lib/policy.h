/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Slots of the policies, where a flow to or from a pod begins: 0 lets all
 * through; any other policy has no table yet, and lets nothing.
 */
#pragma once

#include "types.h"

static __always_inline int policy_in(const struct endpoint *ep)
{
	return ep->policy ? -DROP_POLICY : 0;
}

static __always_inline int policy_out(const struct endpoint *ep)
{
	return ep->policy ? -DROP_POLICY : 0;
}
