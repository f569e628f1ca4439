// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"

	pools "github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/pkg/agentapi"
	"github.com/patchbay-net/patchbay/plugins/ipam"
)

// plan asks the agent what the pod gets: it knows the pod's annotations. Without
// the agent there is no ADD anyway. One of before this question has no answer, and
// the configuration's ranges count.
func (c *conf) plan() (agentapi.PodPlan, error) {
	pod, err := ipam.ParsePod(c.args.Args)
	if err != nil {
		return agentapi.PodPlan{}, err
	}
	plan, err := c.agent(addTimeout).PlanPod(context.Background(), agentapi.PodRequest{
		EndpointKey: c.endpointKey(), PodNamespace: pod.Namespace, PodName: pod.Name, PodUID: pod.UID,
		Foreign: c.IPAM.Type != ipam.Type,
	})
	if refused, ok := errors.AsType[*agentapi.Error](err); ok && refused.Code == agentapi.CodeUnknown {
		return agentapi.PodPlan{}, nil
	}
	if err != nil {
		return agentapi.PodPlan{}, fmt.Errorf("plan %s: %w", c.key, err)
	}
	return plan, nil
}

// use has an IPAM in process give what the plan says. Another IPAM plugin gives
// what it does.
func (p *inProcess) use(plan agentapi.PodPlan) error {
	if len(plan.Pools) == 0 {
		return nil
	}
	list, err := toPools(p.n.Name, plan.Pools)
	if err != nil {
		return err
	}
	p.n.Pools = list
	if plan.CoolDown > 0 {
		p.n.Rest = pools.Rest{CoolDown: plan.CoolDown, Minimum: min(plan.CoolDown, pools.DefaultRest().Minimum)}
	}
	return nil
}

func toPools(network string, list []agentapi.AddressPool) ([]pools.Pool, error) {
	out := make([]pools.Pool, len(list))
	for i, p := range list {
		subnets := make([]pools.Subnet, len(p.Subnets))
		for j, s := range p.Subnets {
			subnets[j] = pools.Subnet{Prefix: s.Prefix, First: s.First, Last: s.Last, Exclude: s.Exclude}
		}
		pool, err := pools.NewPool(fmt.Sprintf("%s/%s/%d", network, p.Name, i), subnets...)
		if err != nil {
			return nil, err
		}
		out[i] = pool
	}
	return out, nil
}
